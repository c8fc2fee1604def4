// For builds that look for races (races.py): two accesses to the same byte, by two threads, of which one writes, and
// nothing that says which comes first.
//
// Each thread has a clock, and knows for every other thread of the launch up to which time that one's accesses come
// before its own (a vector clock, as in FastTrack, Flanagan and Freund 2009). Each byte of global and shared memory has
// its last write and the reads since then. So what is found does not depend on the order in which the emulation runs the
// threads, but on which accesses there are and on what they wait for:
//
//   the start of a launch   all accesses of earlier launches come before
//   __syncthreads           what any thread of the block did before comes before what any does after
//   __syncwarp              the same for the lanes that its mask names. A shuffle is none: it orders no accesses in CUDA
//   cluster's barrier       what a thread did before it arrived comes before what another does after it has waited
//   flags                   what a thread did before store_flag comes before what another does after a load_flag that
//                           sees the flag. They, and atomic operations, are no races among each other; an atomic
//                           operation orders nothing
//   copies                  a copy beside the computation reads and writes from when it is begun to when its thread has
//                           waited for it: any access in between is a race, and one of its own thread, too. After that
//                           it is a write of this thread, which others see after one of the above
//
// A store to the shared memory of another block must know that the block has begun. Not modelled: fences; weak memory (a
// load_flag sees the last store); that a block may have ended when another one of its cluster stores to it; that two copies
// of a thread may read the same byte; and of atomic operations on a byte, all but the last. Bytes that are read, but never used, are read.
#pragma once
#pragma GCC push_options
#pragma GCC optimize("O3")

namespace races {
enum Kind : unsigned { READ = 0, WRITE = 1, ATOMIC = 2, COPIED = 4, BEGINS = 8 };  // bits
constexpr unsigned UNDER_WAY = ~0u;  // the time of a copy that is: no thread knows of it
constexpr unsigned long long GLOBAL = ~0ull, MOST_THREADS_OF_A_LAUNCH = 1 << 14;
constexpr size_t PAGE = 1024, MOST_RACES = 1 << 16;

struct Access { unsigned thread, time, kind, site; };  // thread: of all blocks of the launch; time: 0 for no access

struct Byte {
    Access write, one;
    Access* more;  // reads since the write, if they are not one alone
    unsigned n_reads, room;
};
struct Page {
    size_t number;
    Byte* bytes;
};
static Page* pages;  // a hash table, of which a quarter is used at most
static size_t pages_room, n_pages;

struct Race {
    unsigned long long address, block;  // in the shared memory of a block, or GLOBAL
    Access first, second;
    unsigned size, padding;
};
static Race* found;
static size_t n_found;

struct Clocks {
    const void* flag;
    unsigned* times;
    unsigned arrived;
};
static Clocks* flags;
static size_t n_flags;
static Clocks gates[emulation::MOST_THREADS / emulation::WARP][2];  // of a cluster's barrier, this time and the next

static unsigned* known[emulation::MOST_THREADS];  // by each live thread: the time of each thread of the launch
static unsigned* together;
static size_t n_ids;
static unsigned long long first_block;

UNCOUNTED static unsigned id_of(unsigned slot) {
    const Index3& at = emulation::slots[slot].block;
    const unsigned long long block = ((unsigned long long)at.z * gridDim.y + at.y) * gridDim.x + at.x;
    return (unsigned)(block - first_block) * emulation::n_threads;
}
UNCOUNTED static unsigned me() {
    using namespace emulation;
    return id_of(current_slot) + current - current_slot * stride;
}
UNCOUNTED static void learn(unsigned* times, const unsigned* from) {
    for (size_t i = 0; i < n_ids; i++) times[i] = times[i] < from[i] ? from[i] : times[i];
}
UNCOUNTED static unsigned* unknown(unsigned* times) {
    if (times == nullptr) times = static_cast<unsigned*>(std::malloc(n_ids * sizeof(unsigned)));
    for (size_t i = 0; i < n_ids; i++) times[i] = 0;
    return times;
}

// ---- bytes

UNCOUNTED static Page* place_of(size_t number) {
    size_t at = number * 0x9e3779b97f4a7c15ull >> 20;
    while (pages[at % pages_room].bytes != nullptr && pages[at % pages_room].number != number) at++;
    return &pages[at % pages_room];
}

UNCOUNTED static Byte* bytes_of(size_t number) {
    if (pages_room < 4 * (n_pages + 1)) {
        Page* old = pages;
        const size_t old_room = pages_room;
        pages_room = old_room ? 2 * old_room : 1 << 10;
        pages = static_cast<Page*>(std::calloc(pages_room, sizeof(Page)));
        for (size_t i = 0; i < old_room; i++)
            if (old[i].bytes != nullptr) *place_of(old[i].number) = old[i];
        std::free(old);
    }
    Page* page = place_of(number);
    if (page->bytes == nullptr) {
        *page = {number, static_cast<Byte*>(std::calloc(PAGE, sizeof(Byte)))};
        n_pages++;
    }
    return page->bytes;
}

UNCOUNTED static Byte& byte_at(const char* p) {
    return bytes_of(reinterpret_cast<size_t>(p) / PAGE)[reinterpret_cast<size_t>(p) % PAGE];
}

UNCOUNTED static void forget(const char* p, size_t size) {
    if (pages_room == 0) return;
    for (size_t i = 0; i < size;) {
        const size_t at = reinterpret_cast<size_t>(p) + i, rest = PAGE - at % PAGE;
        const size_t here = rest < size - i ? rest : size - i;
        if (Byte* bytes = place_of(at / PAGE)->bytes)
            for (size_t j = at % PAGE; j < at % PAGE + here; j++) bytes[j].write.time = bytes[j].n_reads = 0;
        i += here;
    }
}

UNCOUNTED static Access* reads_of(Byte& byte) { return byte.room ? byte.more : &byte.one; }

UNCOUNTED static void add_read(Byte& byte, const Access& now, const unsigned* times) {
    Access* reads = reads_of(byte);
    if (byte.n_reads > 0) {
        const Access& last = reads[byte.n_reads - 1];
        if (last.thread == now.thread && last.time == now.time) return;
    }
    // A read that comes before this one is forgotten: a write that does not come after it does not come after this one.
    unsigned kept = 0;
    for (unsigned i = 0; i < byte.n_reads; i++)
        if (reads[i].time > times[reads[i].thread] || (now.kind & ATOMIC)) reads[kept++] = reads[i];
    if (kept == (byte.room ? byte.room : 1)) {
        const unsigned room = 4 * kept;
        Access* more = static_cast<Access*>(std::malloc(room * sizeof(Access)));
        std::memmove(more, reads, kept * sizeof(Access));
        if (byte.room) std::free(byte.more);
        byte.more = reads = more;
        byte.room = room;
    }
    reads[kept] = now;
    byte.n_reads = kept + 1;
}

UNCOUNTED __attribute__((noinline)) static void report(const char* p, const Access& first, const Access& second) {
    using namespace emulation;
    unsigned long long block = GLOBAL, address = reinterpret_cast<unsigned long long>(p);
    for (unsigned slot = 0; slot < MOST_THREADS / WARP; slot++)
        if (traffic::within(p, slots[slot].memory, dynamic_size)) {
            block = first_block + id_of(slot) / n_threads;
            address = p - slots[slot].memory;
        }
    if (traffic::within(p, __start_cuda_shared, __stop_cuda_shared - __start_cuda_shared)) {
        block = first_block + id_of(current_slot) / n_threads;
        address = p - __start_cuda_shared;
    }
    for (size_t back = 1; back <= n_found && back <= 64 && n_found <= MOST_RACES; back++) {  // a byte more?
        Race& last = found[n_found - back];
        const bool same = last.first.thread == first.thread && last.first.site == first.site &&
                          last.second.thread == second.thread && last.second.site == second.site &&
                          last.first.kind == first.kind && last.second.kind == second.kind;
        if (same && last.block == block && last.address + last.size == address) return void(last.size++);
    }
    if (found == nullptr) found = static_cast<Race*>(std::malloc(MOST_RACES * sizeof(Race)));
    if (n_found < MOST_RACES) found[n_found] = {address, block, first, second, 1, 0};
    n_found++;
}

UNCOUNTED static void look_at(const char* p, const Access& before, const Access& after, const unsigned* times) {
    if (before.time > times[before.thread] && !(before.kind & after.kind & ATOMIC)) report(p, before, after);
}

UNCOUNTED static Access now(unsigned kind, const void* site) {
    const unsigned id = me();
    return {id, known[emulation::current][id], kind, (unsigned)(static_cast<const char*>(site) - __ehdr_start)};
}

UNCOUNTED static void access(const Access& now, const void* start, size_t size) {
    const unsigned* times = known[emulation::current];
    for (const char* p = static_cast<const char*>(start); p < static_cast<const char*>(start) + size; p++) {
        Byte& byte = byte_at(p);
        if (byte.write.time > 0) look_at(p, byte.write, now, times);
        if (now.kind & WRITE) {
            const Access* reads = reads_of(byte);
            for (unsigned i = 0; i < byte.n_reads; i++) look_at(p, reads[i], now, times);
            byte.n_reads = 0;
            byte.write = now;
        } else {
            add_read(byte, now, times);
        }
    }
}

// ---- what cuda_cpu.h calls

UNCOUNTED static void begin_launch(unsigned long long first, unsigned long long count) {
    for (size_t i = 0; i < pages_room; i++)
        if (Byte* bytes = pages[i].bytes) {
            for (size_t j = 0; j < PAGE; j++)
                if (bytes[j].room) std::free(bytes[j].more);
            std::free(bytes);
        }
    std::free(pages);
    pages = nullptr;
    pages_room = n_pages = n_found = 0;
    for (size_t i = 0; i < n_flags; i++) std::free(flags[i].times);
    n_flags = 0;
    for (auto& times : known) std::free(times), times = nullptr;
    for (auto& gate : gates)
        for (Clocks& one : gate) std::free(one.times), one = {};
    std::free(together);
    together = nullptr;
    first_block = first;
    n_ids = count * emulation::n_threads;
    if (n_ids > MOST_THREADS_OF_A_LAUNCH) return emulation::fail("looks for races among too many threads: %zu", n_ids);
    together = unknown(nullptr);
}

UNCOUNTED static void begin_block(unsigned slot) {
    using namespace emulation;
    for (unsigned i = 0; i < n_threads; i++) {
        unsigned*& times = known[slot * stride + i];
        times = unknown(times);
        times[id_of(slot) + i] = 1;
    }
    forget(slots[slot].memory, dynamic_size);
    forget(__start_cuda_shared, __stop_cuda_shared - __start_cuda_shared);
}

// Threads from `first` to before `last` wait for each other; if they are lanes of a warp, those of the mask.
UNCOUNTED static void meet(unsigned first, unsigned last, unsigned mask) {
    unknown(together);
    for (unsigned i = first; i < last; i++)
        if (mask >> (i - first) % emulation::WARP & 1) learn(together, known[i]);
    const unsigned slot = first / emulation::stride, id = id_of(slot) - slot * emulation::stride;
    for (unsigned i = first; i < last; i++)
        if (mask >> (i - first) % emulation::WARP & 1) {
            std::memmove(known[i], together, n_ids * sizeof(unsigned));
            known[i][id + i]++;
        }
}

UNCOUNTED static void begin_cluster(unsigned slot) {
    for (Clocks& one : gates[slot]) one = {nullptr, unknown(one.times), 0};
}

UNCOUNTED static void arrive() {
    using namespace emulation;
    Clocks& gate = gates[current_slot / cluster * cluster][(threads[current].arrivals - 1) % 2];
    if (gate.arrived++ % (cluster * n_threads) == 0) unknown(gate.times);
    learn(gate.times, known[current]);
    known[current][me()]++;
}

UNCOUNTED static void waited() {
    using namespace emulation;
    learn(known[current], gates[current_slot / cluster * cluster][(threads[current].waits - 1) % 2].times);
}

UNCOUNTED static void store_to(unsigned slot, const void* p, size_t size, const void* site) {
    const Access store = now(WRITE, site);
    const unsigned first = id_of(slot);
    bool begun = false;
    for (unsigned i = 0; i < emulation::n_threads; i++) begun |= known[emulation::current][first + i] > 0;
    if (!begun) report(static_cast<const char*>(p), {first, 0, BEGINS, store.site}, store);
    access(store, p, size);
}

UNCOUNTED static void copy_begins(const void* to, const void* from, size_t size, size_t bytes, const void* site) {
    Access one = now(COPIED, site);
    one.time = UNDER_WAY;
    access(one, from, bytes);
    one.kind |= WRITE;
    access(one, to, size);
}

UNCOUNTED static void copy_ends(const char* to, const char* from, size_t size, size_t bytes) {
    const Access ended = now(COPIED, nullptr);
    for (size_t i = 0; i < size; i++) {
        Access& write = byte_at(to + i).write;
        if (write.thread == ended.thread && write.time == UNDER_WAY) write.time = ended.time;
    }
    for (size_t i = 0; i < bytes; i++) {
        Byte& byte = byte_at(from + i);
        Access* reads = reads_of(byte);
        for (unsigned j = 0; j < byte.n_reads; j++)
            if (reads[j].thread == ended.thread && reads[j].time == UNDER_WAY) reads[j].time = ended.time;
    }
}

UNCOUNTED static void atomic(const void* p, size_t size, unsigned kind, const void* site) {
    access(now(ATOMIC | kind, site), p, size);
}

UNCOUNTED static Clocks* flag_at(const void* p) {
    for (size_t i = 0; i < n_flags; i++)
        if (flags[i].flag == p) return &flags[i];
    return nullptr;
}

UNCOUNTED static void release(const void* p, size_t size, const void* site) {
    atomic(p, size, WRITE, site);
    Clocks* flag = flag_at(p);
    if (flag == nullptr) {
        flags = static_cast<Clocks*>(std::realloc(flags, (n_flags + 1) * sizeof(Clocks)));
        flag = &flags[n_flags++];
        *flag = {p, unknown(nullptr), 0};
    }
    std::memmove(flag->times, known[emulation::current], n_ids * sizeof(unsigned));
    known[emulation::current][me()]++;
}

UNCOUNTED static void acquire(const void* p, size_t size, const void* site) {
    atomic(p, size, READ, site);
    if (const Clocks* flag = flag_at(p)) learn(known[emulation::current], flag->times);
}
}  // namespace races

#pragma GCC visibility push(default)
extern "C" {
UNCOUNTED size_t races_size() { return races::n_found; }
UNCOUNTED const void* races_found() { return races::found; }
}
#pragma GCC visibility pop
#pragma GCC pop_options
