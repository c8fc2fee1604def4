// For tests only: the text of a CUDA kernel runs on the CPU, one block at a time, a fiber a thread.
//
// Modelled: threadIdx .. gridDim, static and dynamic shared memory (poisoned before each block), __syncthreads,
// __syncwarp, __shfl_sync, __shfl_xor_sync, integer atomics; copies beside the computation, whose target is poisoned
// until the thread waits for them; tensor cores; clusters: their barrier, and stores to the other blocks' dynamic shared
// memory. The blocks of a cluster run together, and so do blocks of which one waits for a flag of another. Stricter than
// a GPU: every thread of the block must reach a barrier, at the same line; every live lane that a warp operation names
// must reach it, at the same line; a shuffle may not read from a lane that takes no part. Not modelled: weak memory,
// flushed subnormals, timing.
//
// The order in which fibers run decides what is found. Stepping all threads round-robin did not notice a deleted
// __syncthreads(); here each warp runs as far as it can (to the block barrier) before the next one starts. Blocks,
// warps and lanes go in an order set by `seed`: 0 forward, 1 reverse, others random. Results must agree over seeds.
// races.h finds what is not in order whatever the order was, in builds that are some times slower.
//
// A thread that ends without having waited leaves its fiber to the next one: a kernel without barriers is a plain loop.
#pragma once
#include <cxxabi.h>
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __cluster_dims__(...)  // build.py reads it
#define __shared__ static __attribute__((section("cuda_shared")))  // between two symbols of the linker, to be poisoned
#define __syncthreads() emulation::wait(emulation::AT_BARRIER, 0, __LINE__)
#define __syncwarp(...) emulation::wait(emulation::AT_WARP, emulation::mask_or_all(__VA_ARGS__), __LINE__, true)
#define __shfl_sync(mask, value, source) emulation::shuffle(mask, value, (unsigned)(source), __LINE__)
#define __nanosleep(ns) emulation::wait(emulation::AT_FLAG, 0, __LINE__)  // in a loop that waits for another block
#define __shfl_xor_sync(mask, value, lanes) emulation::shuffle(mask, value, emulation::lane() ^ (lanes), __LINE__)

struct Index3 { unsigned x, y, z; };
static Index3 threadIdx, blockIdx, blockDim, gridDim;

extern "C" {
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
#ifdef __SANITIZE_ADDRESS__
void __asan_unpoison_memory_region(void const volatile*, size_t);
#endif
}

#ifdef EMULATION_RACES
#define RACES(call) races::call  // see races.h
namespace races {
constexpr bool ON = true;
static void begin_launch(unsigned long long first, unsigned long long count);
static void begin_block(unsigned slot);
static void begin_cluster(unsigned slot);
static void meet(unsigned first, unsigned last, unsigned mask);
static void arrive();
static void waited();
static void store_to(unsigned slot, const void* p, size_t size, const void* site);
static void copy_begins(const void* to, const void* from, size_t size, size_t bytes, const void* site);
static void copy_ends(const char* to, const char* from, size_t size, size_t bytes);
static void atomic(const void* p, size_t size, unsigned kind, const void* site);
static void release(const void* p, size_t size, const void* site);
static void acquire(const void* p, size_t size, const void* site);
}
#else
#define RACES(call) ((void)0)
namespace races { constexpr bool ON = false; }
#endif
#define HERE __builtin_return_address(0)  // where the kernel calls a function that is not inlined

namespace emulation {
constexpr unsigned WARP = 32, MOST_PARAMETERS = 32;
constexpr unsigned MOST_THREADS = 4096;  // at a time: a cluster of eight blocks of 512
constexpr unsigned ALL = 0xffffffffu;
// Not a power of two: the stacks of a warp's lanes would share one set of the first-level cache.
constexpr size_t STACK = (64 << 10) + 9 * 64;

// ---- fibers

struct Fiber { void* stack_pointer; };

// Saves what a callee must keep on this stack, and goes on where the other stack was left. (swapcontext does the same
// and a system call for the signal mask: 20 times slower.)
extern "C" void emulation_switch(void** from, void* to) __attribute__((visibility("hidden")));
void fiber_main();

#if defined(__x86_64__) && !defined(EMULATION_UCONTEXT)
asm(R"(
.text
.type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
.size emulation_switch, .-emulation_switch
)");
static void* fresh(char* stack) {  // as emulation_switch would have left it: six registers, then where to go on
    void** top = reinterpret_cast<void**>((reinterpret_cast<size_t>(stack) + STACK) / 16 * 16);
    top[-2] = reinterpret_cast<void*>(fiber_main);  // and then the stack is 8 off a multiple of 16, as after a call
    return top - 8;
}
#elif defined(__aarch64__) && !defined(EMULATION_UCONTEXT)
asm(R"(
.text
.type emulation_switch, %function
emulation_switch:
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
.size emulation_switch, .-emulation_switch
)");
static void* fresh(char* stack) {
    void** top = reinterpret_cast<void**>((reinterpret_cast<size_t>(stack) + STACK) / 16 * 16) - 20;
    top[1] = reinterpret_cast<void*>(fiber_main);  // x30
    return top;
}
#else
}  // namespace emulation
#include <ucontext.h>
namespace emulation {
static ucontext_t contexts[MOST_THREADS + 1];  // a fiber's stack pointer is its context
static unsigned n_contexts = 1;
extern "C" void emulation_switch(void** from, void* to) {
    if (*from == nullptr) *from = &contexts[0];  // the scheduler, which has no stack of ours
    swapcontext(static_cast<ucontext_t*>(*from), static_cast<ucontext_t*>(to));
}
static void* fresh(char* stack) {
    ucontext_t* context = &contexts[n_contexts++ % (MOST_THREADS + 1)];
    if (n_contexts > MOST_THREADS) n_contexts = 1;
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = STACK;
    makecontext(context, fiber_main, 0);
    return context;
}
#endif

enum State { FRESH, RUNNING, AT_WARP, AT_BARRIER, AT_CLUSTER, AT_FLAG, DONE };

struct Thread {
    State state;
    int line;           // of the barrier or warp operation at which it waits
    unsigned mask;      // of the warp operation
    unsigned together;  // lanes that took part in the last one
    bool orders;        // accesses to memory, as __syncwarp does and other warp operations do not
    Fiber* fiber;       // where it waits
    unsigned arrivals, waits;  // at the cluster's barrier
};

static Thread threads[MOST_THREADS];
static Index3 index_of[MOST_THREADS];
static unsigned n_threads, current;

// A block that runs has a slot: `stride` entries of `threads`, whole warps. Those of a cluster follow each other.
struct Slot {
    bool live, begun;
    Index3 block;
    char* memory;  // `extern __shared__` is rewritten to it
};
static Slot slots[MOST_THREADS / WARP];
static unsigned stride, cluster, current_slot, n_live;
static size_t dynamic_size;
static bool moved;  // has a thread got anywhere, but to the same flag again?

static Fiber scheduler, fibers[MOST_THREADS];
static Fiber* idle[MOST_THREADS];  // fibers without a thread, the next one to be used last
static unsigned n_fibers, n_idle;
static char* stacks;  // of all fibers; the caller's, so that shared objects have them in common
static Fiber* running;

static unsigned turn[WARP], turn_at, turn_end;  // threads of the warp that run before the scheduler looks again

static unsigned long long posted[MOST_THREADS], arrived[MOST_THREADS];  // what shuffles exchange

static char problem[512];  // why this launch failed, or ""

struct Kernel {
    const char* name;
    unsigned most_threads;
    unsigned cluster;        // blocks
    std::string parameters;  // types, separated by ';'
    void (*call)(const unsigned long long*);
};
static const Kernel* kernel;
static unsigned long long arguments[MOST_PARAMETERS];

static Fiber* take_idle() {
    if (n_idle > 0) return idle[--n_idle];
    Fiber* fiber = &fibers[n_fibers];
    fiber->stack_pointer = fresh(stacks + STACK * n_fibers++);
    return fiber;
}

// Makes the next thread of the turn the current one; was it waiting somewhere?
static bool advance() {
    current = turn[turn_at++];
    threadIdx = index_of[current - current_slot * stride];
    const bool waited = threads[current].state != FRESH;
    threads[current].state = RUNNING;
    return waited;
}

// To the next thread of the turn, or to the scheduler.
static void leave() {
    Fiber *from = running, *to = &scheduler;
    if (turn_at < turn_end) to = advance() ? threads[current].fiber : take_idle();
    running = to;
    emulation_switch(&from->stack_pointer, to->stack_pointer);
}

void fiber_main() {
    for (;;) {
        kernel->call(arguments);
        threads[current].state = DONE;
        moved = true;
        if (turn_at < turn_end && threads[turn[turn_at]].state == FRESH) {
            advance();
            continue;
        }
        idle[n_idle++] = running;
        leave();
    }
}

// Ends the launch; does not return to the thread.
__attribute__((noinline, format(printf, 1, 2))) static void fail(const char* format, ...) {
    if (problem[0]) return;
    int used = snprintf(problem, sizeof problem, "%s, block (%u, %u, %u), thread (%u, %u, %u): ", kernel->name, blockIdx.x,
                        blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    va_list list;
    va_start(list, format);
    vsnprintf(problem + used, sizeof problem - used, format, list);
    va_end(list);
    if (running == &scheduler) return;
    turn_at = turn_end;
    leave();
}

__attribute__((noinline)) static void wait(State state, unsigned mask, int line, bool orders = false) {
    Thread& me = threads[current];
    me.state = state;
    me.orders = orders;
    me.mask = mask;
    me.line = line;
    me.fiber = running;
    moved |= state != AT_FLAG;
    leave();
}

static inline unsigned lane() { return current % WARP; }
static inline unsigned mask_or_all(unsigned mask = ALL) { return mask; }

static bool own_work;  // whose accesses to memory are not the kernel's: see traffic.h

// ---- clusters, and blocks that wait for each other's flags

static void cluster_arrive() {
    Thread& me = threads[current];
    if (me.arrivals++ != me.waits) fail("arrives at the cluster's barrier again without having waited");
    RACES(arrive());
}

static void cluster_wait(int line) {
    Thread& me = threads[current];
    if (++me.waits != me.arrivals) fail("waits at the cluster's barrier without having arrived");
    wait(AT_CLUSTER, 0, line);
    RACES(waited());
}

// Stores to where the block of a rank in this cluster has what is `mine` here.
template <class T> __attribute__((noinline)) static void store_in_cluster(T* mine, unsigned rank, T value) {
    const size_t offset = reinterpret_cast<char*>(mine) - slots[current_slot].memory;
    if (rank >= cluster || offset + sizeof(T) > dynamic_size) fail("a store outside the shared memory of the cluster");
    const unsigned slot = current_slot / cluster * cluster + rank;
    char* to = slots[slot].memory + offset;
    RACES(store_to(slot, to, sizeof(T), HERE));
    own_work = races::ON;
    std::memcpy(to, &value, sizeof(T));
    own_work = false;
}

// Flags that order what comes before the store and after the load.
__attribute__((noinline)) static void store_flag(unsigned* flag, unsigned value) {
    RACES(release(flag, sizeof(unsigned), HERE));
    own_work = races::ON;
    *flag = value;
    own_work = false;
}

__attribute__((noinline)) static unsigned load_flag(const unsigned* flag) {
    RACES(acquire(flag, sizeof(unsigned), HERE));
    own_work = races::ON;
    const unsigned value = *flag;
    own_work = false;
    return value;
}

// ---- copies beside the computation

struct Copy {
    char* to;
    const char* from;
    unsigned size, bytes, group;
};
struct Copies {
    std::vector<Copy> begun;
    unsigned groups = 0;
};
static Copies copies[MOST_THREADS];
static unsigned long long copied_bytes;

__attribute__((noinline)) static void copy_async(void* to, const void* from, unsigned size, unsigned bytes) {
    if (reinterpret_cast<size_t>(to) % size || reinterpret_cast<size_t>(from) % size)
        fail("copies %u bytes from or to an address that is not a multiple of that", size);
    if (bytes > size) fail("copies %u bytes, of which %u are read", size, bytes);
    RACES(copy_begins(to, from, size, bytes, HERE));
    own_work = true;
    std::memset(to, 0xff, size);
    copied_bytes += bytes;
    Copies& mine = copies[current];
    mine.begun.push_back({static_cast<char*>(to), static_cast<const char*>(from), size, bytes, mine.groups});
    own_work = false;
}

static void commit_copies() {
    own_work = true;
    copies[current].groups++;
    own_work = false;
}

static void wait_copies(unsigned n) {
    own_work = true;
    Copies& mine = copies[current];
    size_t ended = 0;
    for (; ended < mine.begun.size() && mine.begun[ended].group + n < mine.groups; ended++) {
        const Copy one = mine.begun[ended];
        RACES(copy_ends(one.to, one.from, one.size, one.bytes));
        own_work = races::ON;
        std::memcpy(one.to, one.from, one.bytes);
        own_work = true;
        std::memset(one.to + one.bytes, 0, one.size - one.bytes);
    }
    mine.begun.erase(mine.begun.begin(), mine.begun.begin() + ended);
    own_work = false;
}

template <class T> static T shuffle(unsigned mask, T value, unsigned source, int line) {
    static_assert(sizeof(T) <= sizeof(posted[0]) && std::is_trivially_copyable<T>::value);
    std::memcpy(&posted[current], &value, sizeof(T));
    wait(AT_WARP, mask, line);
    if (source >= WARP || !(threads[current].together >> source & 1))
        fail("the shuffle at line %d reads lane %u, which takes no part in it", line, source);
    std::memcpy(&value, &arrived[current / WARP * WARP + source], sizeof(T));
    return value;
}

// ---- tensor cores

// What the lanes of a warp have of a product's operands: four registers of the first and two of the second. There are two
// of them, since a lane may be one product ahead of another that still reads.
struct Fragments { unsigned a[4], b[2]; };
static Fragments fragments[2][MOST_THREADS];
static unsigned char products_done[MOST_THREADS];

static float toward_zero(double x) {
    const float nearest = (float)x;
    return std::fabs((double)nearest) > std::fabs(x) ? std::nextafterf(nearest, 0.0f) : nearest;
}

// mma.m16n8k16 with a (16, 16) and b (16, 8) of a 16-bit type, see few_classes.cu. The sum of exact products is cut off
// at float32's last bit: hardware may do that, or round.
template <class T> static void multiply_add(float* sum, const unsigned (&a)[4], unsigned b0, unsigned b1, int line) {
    Fragments* all = fragments[products_done[current]++ % 2];
    all[current] = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    wait(AT_WARP, ALL, line);
    if (threads[current].together != ALL) fail("the product at line %d lacks lanes", line);
    const unsigned mine = lane(), first = current - mine;
    auto element = [](const unsigned* registers, unsigned which, unsigned k) {
        return (double)widen(T{(unsigned short)(registers[which] >> 16 * (k % 2))});
    };
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = mine / 4 + 8 * (i / 2), column = mine % 4 * 2 + i % 2;
        double total = sum[i];
        for (unsigned k = 0; k < 16; k++)
            total += element(all[first + row % 8 * 4 + k % 8 / 2].a, row / 8 + k / 8 * 2, k) *
                     element(all[first + column * 4 + k % 8 / 2].b, k / 8, k);
        sum[i] = toward_zero(total);
    }
}

// ---- the schedule

static unsigned long long random_state;
static unsigned random_below(unsigned n) {  // splitmix64
    unsigned long long z = random_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (unsigned)(((z ^ z >> 31) >> 32) * n >> 32);
}

static void put_in_order(unsigned* things, unsigned n, unsigned seed) {  // things come in ascending order
    if (seed == 1)
        for (unsigned i = 0; i < n / 2; i++) std::swap(things[i], things[n - 1 - i]);
    if (seed > 1)
        for (unsigned i = n; i > 1; i--) std::swap(things[i - 1], things[random_below(i)]);
}

// Lets lanes go that wait for each other, all of them being there. Are there any?
static bool release_warp(unsigned first, unsigned last) {
    unsigned live = 0, released = 0;
    for (unsigned i = first; i < last; i++)
        if (threads[i].state != DONE) live |= 1u << (i - first);
    for (unsigned i = first; i < last; i++) {
        const Thread& one = threads[i];
        if (one.state != AT_WARP) continue;
        const unsigned wanted = one.mask & live;
        unsigned there = 0;
        for (unsigned j = first; j < last; j++)
            if (threads[j].state == AT_WARP && threads[j].mask == one.mask && threads[j].line == one.line)
                there |= 1u << (j - first);
        if (there != wanted) continue;
        if (one.orders) RACES(meet(first, last, there));
        for (unsigned j = first; j < last; j++)
            if (there >> (j - first) & 1) {
                threads[j].state = RUNNING;
                threads[j].together = there;
                arrived[j] = posted[j];
            }
        released |= there;
    }
    return released != 0;
}

static void run_warp(unsigned first, unsigned last, unsigned seed) {
    for (;;) {
        turn_at = turn_end = 0;
        for (unsigned i = first; i < last; i++)
            if (threads[i].state <= RUNNING) turn[turn_end++] = i;
        if (turn_end == 0) return;
        put_in_order(turn, turn_end, seed);
        running = &scheduler;
        leave();
        if (problem[0]) return;
        unsigned waiting = last;
        for (unsigned i = first; i < last && waiting == last; i++)
            if (threads[i].state == AT_WARP) waiting = i;
        if (waiting < last && !release_warp(first, last)) {
            threadIdx = index_of[waiting - current_slot * stride];
            fail("waits in a warp operation at line %d, which not every live lane that its mask %#x names has reached",
                 threads[waiting].line, threads[waiting].mask);
            return;
        }
    }
}

// A program error unless written everywhere before it is read; by seed NaN, zero, or anything.
__attribute__((no_sanitize_address)) static void poison_shared(char* dynamic_memory, unsigned seed) {
    const char with = seed == 0 ? (char)0xff : seed == 1 ? 0 : (char)random_below(256);
    for (char volatile* p = __start_cuda_shared; p != __stop_cuda_shared; p++) *p = with;  // redzones and all
    if (dynamic_size) std::memset(dynamic_memory, with, dynamic_size);
}

static void begin_block(unsigned slot, unsigned seed) {
    for (unsigned i = slot * stride; i < slot * stride + n_threads; i++) {
        threads[i].state = FRESH;
        threads[i].arrivals = threads[i].waits = 0;
        products_done[i] = 0;
        copies[i] = Copies();
    }
    RACES(begin_block(slot));
    poison_shared(slots[slot].memory, seed);
    slots[slot].begun = true;
}

// Lets threads go that wait for a flag, to look at it again, or for a cluster of which each thread has arrived.
static void release_from_others(unsigned slot) {
    const unsigned first = slot / cluster * cluster;
    unsigned arrivals = ~0u;  // of each thread of the cluster, at least
    for (unsigned b = first; b < first + cluster && cluster > 1; b++)
        for (unsigned i = b * stride; i < b * stride + n_threads; i++)
            arrivals = slots[b].begun ? std::min(arrivals, threads[i].arrivals) : 0;
    for (unsigned i = slot * stride; i < slot * stride + n_threads; i++) {
        const bool met = threads[i].state == AT_CLUSTER && arrivals >= threads[i].waits;
        if (met || threads[i].state == AT_FLAG) threads[i].state = RUNNING;
        moved |= met;
    }
}

// Runs a block as far as it can, which is to its end, or to where it waits for other blocks. In a random order these may
// have their turn before that.
static void run_block(unsigned slot, unsigned seed) {
    const unsigned warps = (n_threads + WARP - 1) / WARP, base = slot * stride, end = base + n_threads;
    unsigned order[MOST_THREADS / WARP];
    current_slot = slot;
    blockIdx = slots[slot].block;
    if (!slots[slot].begun) begin_block(slot, seed);
    release_from_others(slot);
    for (;;) {
        for (unsigned w = 0; w < warps; w++) order[w] = w;
        put_in_order(order, warps, seed);
        for (unsigned w = 0; w < warps && !problem[0]; w++) {
            const unsigned first = base + order[w] * WARP;
            run_warp(first, first + WARP < end ? first + WARP : end, seed);
            if (n_live > 1 && seed > 1 && random_below(4) == 0) return void(moved = true);
        }
        if (problem[0]) return;
        unsigned at_barrier = 0, for_others = 0, one = 0;
        for (unsigned i = base; i < end; i++) {
            if (threads[i].state == AT_BARRIER) at_barrier++, one = i;
            for_others += threads[i].state == AT_CLUSTER || threads[i].state == AT_FLAG;
        }
        slots[slot].live = at_barrier + for_others > 0;
        if (at_barrier == 0 || for_others > 0) return;
        threadIdx = index_of[one - base];
        for (unsigned i = base; i < end; i++)
            if (threads[i].state != AT_BARRIER || threads[i].line != threads[one].line)
                return fail("waits at the barrier at line %d, and thread %u never reaches it", threads[one].line,
                            i - base);
        RACES(meet(base, end, ALL));
        for (unsigned i = base; i < end; i++) threads[i].state = RUNNING;
    }
}

// ---- launches

template <class T> static T* dynamic_shared() { return reinterpret_cast<T*>(slots[current_slot].memory); }

// The blocks of a cluster, or a single block, begin in free slots. Were there any?
static bool place(unsigned long long first_block, const unsigned* grid) {
    for (unsigned at = 0; (at + cluster) * stride <= MOST_THREADS; at += cluster) {
        bool free_slots = true;
        for (unsigned b = 0; b < cluster; b++) free_slots &= !slots[at + b].live;
        if (!free_slots) continue;
        for (unsigned b = 0; b < cluster; b++) {
            const unsigned long long number = first_block + b;
            Slot& slot = slots[at + b];
            slot.block = {(unsigned)(number % grid[0]), (unsigned)(number / grid[0] % grid[1]),
                          (unsigned)(number / grid[0] / grid[1])};
            if (slot.memory == nullptr) slot.memory = static_cast<char*>(std::malloc(dynamic_size));
            slot.live = true;
            slot.begun = false;
        }
        RACES(begin_cluster(at));
        return true;
    }
    return false;
}

// Each live block has its turn. What waits for others at the end is looked at again by the next call.
static unsigned run_live_blocks(unsigned seed) {
    unsigned order[MOST_THREADS / WARP];
    n_live = 0;
    for (unsigned slot = 0; slot < MOST_THREADS / WARP; slot++)
        if (slots[slot].live) order[n_live++] = slot;
    if (n_live > 1 && __start_cuda_shared != __stop_cuda_shared)
        fail("blocks that run together have dynamic shared memory only");
    put_in_order(order, n_live, seed);
    unsigned left = 0;
    for (unsigned i = 0; i < n_live && !problem[0]; i++) {
        run_block(order[i], seed);
        left += slots[order[i]].live;
    }
    return left;
}

static void launch(const unsigned* grid, const unsigned* block, size_t shared_bytes, unsigned seed,
                   unsigned long long first, unsigned long long count) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    own_work = false;
    running = &scheduler;
    n_fibers = n_idle = 0;
    n_threads = block[0] * block[1] * block[2];
    stride = (n_threads + WARP - 1) / WARP * WARP;
    cluster = kernel->cluster;
    copied_bytes = 0;
    for (unsigned i = 0; i < n_threads; i++)
        index_of[i] = {i % block[0], i / block[0] % block[1], i / (block[0] * block[1])};
    for (Slot& slot : slots) {
        slot.live = false;
        if (shared_bytes != dynamic_size) {
            std::free(slot.memory);
            slot.memory = nullptr;
        }
    }
    dynamic_size = shared_bytes;
    if (cluster * stride > MOST_THREADS || grid[0] % cluster || first % cluster || count % cluster)
        return fail("clusters of %u blocks of %u threads in a grid of %u", cluster, n_threads, grid[0]);
    RACES(begin_launch(first, count));
    if (problem[0]) return;
    random_state = seed;
    const unsigned long long units = count / cluster;
    unsigned* order = nullptr;
    if (seed > 1 && units > 1) {
        order = static_cast<unsigned*>(std::malloc(units * sizeof(unsigned)));
        for (unsigned i = 0; i < units; i++) order[i] = i;
        put_in_order(order, (unsigned)units, seed);
    }
    unsigned long long next = 0;
    unsigned live = 0;
    moved = true;
    while (!problem[0] && (live > 0 || next < units)) {
        if (live == 0 || !moved) {  // a block may wait for a flag of one that has not begun
            const unsigned long long at = next == units ? 0 : order ? order[next] : seed == 1 ? units - 1 - next : next;
            if (next == units || !place(first + at * cluster, grid)) fail("waits for other blocks, which wait, too");
            next++;
        }
        moved = false;
        live = run_live_blocks(seed);
    }
    std::free(order);
}

// ---- what Python sees

template <class T> static T argument(unsigned long long slot) {
    T value;
    std::memcpy(&value, &slot, sizeof(T));
    return value;
}

template <class... T, size_t... I>
static void call(void (*function)(T...), const unsigned long long* slots, std::index_sequence<I...>) {
    function(argument<T>(slots[I])...);
}

template <class T> static std::string type_name() {
    char* name = abi::__cxa_demangle(typeid(T).name(), nullptr, nullptr, nullptr);
    std::string result = name;
    std::free(name);
    return result + ";";
}

static unsigned threads_of(unsigned threads, unsigned blocks = 1) { return threads; }  // of __launch_bounds__

template <auto F, class... T>
static Kernel describe(const char* name, unsigned most_threads, unsigned cluster, void (*)(T...)) {
    static_assert(sizeof...(T) <= MOST_PARAMETERS);
    return {name, most_threads, cluster, (std::string() + ... + type_name<T>()), [](const unsigned long long* slots) {
                call(F, slots, std::index_sequence_for<T...>());
            }};
}

extern const Kernel kernels[];  // build.py writes the table, below the kernels' text
}  // namespace emulation

#pragma GCC visibility push(default)
extern "C" {
size_t emulation_stacks_size() { return emulation::STACK * emulation::MOST_THREADS; }
const char* emulation_parameters(unsigned which) { return emulation::kernels[which].parameters.c_str(); }
unsigned long long emulation_copied_bytes() { return emulation::copied_bytes; }
unsigned emulation_most_threads(unsigned which) { return emulation::kernels[which].most_threads; }

// Runs `count` blocks of the grid from block number `first` on. Returns why the launch failed, or null.
const char* emulation_launch(unsigned which, const unsigned* grid, const unsigned* block, const char* slots,
                             size_t slots_size, size_t shared_bytes, unsigned seed, unsigned long long first,
                             unsigned long long count, char* stacks) {
    using namespace emulation;
    problem[0] = 0;
    kernel = &kernels[which];
    emulation::stacks = stacks;
    std::memcpy(arguments, slots, slots_size);
    launch(grid, block, shared_bytes, seed, first, count);
#ifdef __SANITIZE_ADDRESS__
    if (problem[0]) __asan_unpoison_memory_region(stacks, emulation_stacks_size());  // frames that were left
#endif
    return problem[0] ? problem : nullptr;
}
}
#pragma GCC visibility pop

// UndefinedBehaviorSanitizer without its library: a misaligned 16-byte load, an index outside an array or an int that
// overflows ends the launch with a message. A build with the real sanitizers has the library's own handlers.
#ifdef EMULATION_CHECKS
struct CodeLocation { const char* file; unsigned line, column; };
#define EMULATION_HANDLER(name, text)                                                                          \
    extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##name(CodeLocation* where, void*, void*) { \
        emulation::fail("%s, line %u: " text, where->file, where->line);                                       \
    }
EMULATION_HANDLER(type_mismatch_v1, "an address that is not aligned for its type")
EMULATION_HANDLER(out_of_bounds, "an index outside its array")
EMULATION_HANDLER(add_overflow, "a sum that overflows")
EMULATION_HANDLER(sub_overflow, "a difference that overflows")
EMULATION_HANDLER(mul_overflow, "a product that overflows")
EMULATION_HANDLER(shift_out_of_bounds, "a shift by too much")
#endif

// ---- CUDA's functions

static inline float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static inline float __int_as_float(int bits) { float x; std::memcpy(&x, &bits, 4); return x; }
// Each hexadecimal digit of `which` chooses one of the eight bytes of x and y for a byte of the result.
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned which) {
    const unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= (unsigned)(bytes >> (which >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return result;
}
static inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }

// Float atomics would make sums depend on the order: the library has none.
struct Atomic {  // while there is one, an operation's accesses are not taken for a read and a write
    template <class T> Atomic(T* p, const void* site) {
        static_assert(std::is_integral<T>::value);
        RACES(atomic(p, sizeof(T), 1, site));
        emulation::own_work = races::ON;
    }
    ~Atomic() { emulation::own_work = false; }
};
template <class T> __attribute__((noinline)) static T atomicMin(T* p, T value) {
    const Atomic operation(p, HERE);
    T old = *p;
    if (value < old) *p = value;
    return old;
}
template <class T> __attribute__((noinline)) static T atomicMax(T* p, T value) {
    const Atomic operation(p, HERE);
    T old = *p;
    if (value > old) *p = value;
    return old;
}
template <class T> __attribute__((noinline)) static T atomicAdd(T* p, T value) {
    const Atomic operation(p, HERE);
    T old = *p;
    *p = old + value;
    return old;
}

#ifdef __SANITIZE_THREAD__
#include "traffic.h"
#endif
