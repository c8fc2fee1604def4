// For builds that count what a kernel asks of memory (traffic.py): each access to global or shared memory, each barrier
// and each shuffle is noted down, in the order in which a thread does them.
//
// The compiler puts the calls there: with -fsanitize=thread it calls a function before each access, with its address, and
// these functions are here instead of in ThreadSanitizer's library. So the kernels' text stays as it is. Not noted are
// accesses to the fibers' stacks (on a GPU, registers), to this object's own variables and by the scheduler. The caller's
// address is the place of the access in the code, for which functions have to be inlined where CUDA says so.
#pragma once

#define UNCOUNTED __attribute__((no_sanitize("thread")))

extern "C" {
extern char __ehdr_start[] __attribute__((visibility("hidden")));  // of this shared object: by the linker
extern char _end[] __attribute__((visibility("hidden")));
}

namespace traffic {
enum Kind : unsigned { READ, WRITE, BARRIER, SHUFFLE };
enum Space : unsigned { GLOBAL, SHARED, NEITHER, PEER };  // PEER: the shared memory of another block of the cluster

struct Event {
    unsigned long long address, site;
    unsigned size, block, thread, kind, space, padding;
};
static Event* events;
static size_t n_events, room;
static bool out_of_memory;

UNCOUNTED static bool within(const char* p, const char* start, size_t size) { return p >= start && p < start + size; }

UNCOUNTED static Space space_of(const char* p) {
    using namespace emulation;
    if (within(p, __start_cuda_shared, __stop_cuda_shared - __start_cuda_shared)) return SHARED;
    if (within(p, slots[current_slot].memory, dynamic_size)) return SHARED;
    for (unsigned b = 0, first = current_slot / cluster * cluster; cluster > 1 && b < cluster; b++)
        if (within(p, slots[first + b].memory, dynamic_size)) return PEER;
    if (within(p, stacks, STACK * MOST_THREADS) || within(p, __ehdr_start, _end - __ehdr_start)) return NEITHER;
    return GLOBAL;
}

UNCOUNTED static void note(Kind kind, Space space, const void* p, size_t size, const void* site) {
    using namespace emulation;
    if (n_events == room) {
        const size_t more = room ? 2 * room : 1 << 16;
        void* grown = std::realloc(events, more * sizeof(Event));
        if (grown == nullptr) {
            out_of_memory = true;
            return;
        }
        events = static_cast<Event*>(grown);
        room = more;
    }
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    events[n_events++] = {reinterpret_cast<unsigned long long>(p), reinterpret_cast<unsigned long long>(site),
                          (unsigned)size, block, current, kind, space, 0};
}

UNCOUNTED static void access(Kind kind, const void* p, size_t size, const void* site);

UNCOUNTED __attribute__((noinline)) static void met(Kind kind, size_t size) {
    if (!races::ON) note(kind, NEITHER, nullptr, size, __builtin_return_address(0));
}
}  // namespace traffic

#ifdef EMULATION_RACES
#include "races.h"
#endif

UNCOUNTED static void traffic::access(Kind kind, const void* p, size_t size, const void* site) {
    if (emulation::running == nullptr || emulation::running == &emulation::scheduler || emulation::own_work) return;
    const Space space = size == 0 ? NEITHER : space_of(static_cast<const char*>(p));
    if (space == NEITHER) return;
#ifdef EMULATION_RACES
    races::access(races::now(kind, site), p, size);
#else
    note(kind, space, p, size, site);
#endif
}

#pragma GCC visibility push(default)
extern "C" {
#define COUNTED(name, kind, size) \
    UNCOUNTED void __tsan_##name(void* p) { traffic::access(traffic::kind, p, size, __builtin_return_address(0)); }
#define COUNTED_SIZE(size)                        \
    COUNTED(read##size, READ, size)               \
    COUNTED(write##size, WRITE, size)             \
    COUNTED(unaligned_read##size, READ, size)     \
    COUNTED(unaligned_write##size, WRITE, size)
COUNTED_SIZE(1)
COUNTED_SIZE(2)
COUNTED_SIZE(4)
COUNTED_SIZE(8)
COUNTED_SIZE(16)
UNCOUNTED void __tsan_read_range(void* p, size_t size) {
    traffic::access(traffic::READ, p, size, __builtin_return_address(0));
}
UNCOUNTED void __tsan_write_range(void* p, size_t size) {
    traffic::access(traffic::WRITE, p, size, __builtin_return_address(0));
}
UNCOUNTED void __tsan_vptr_update(void**, void*) {}
UNCOUNTED void __tsan_func_entry(void*) {}
UNCOUNTED void __tsan_func_exit() {}
UNCOUNTED void __tsan_init() {}

UNCOUNTED void traffic_forget() { traffic::n_events = 0; }
UNCOUNTED size_t traffic_size() { return traffic::out_of_memory ? ~(size_t)0 : traffic::n_events; }
UNCOUNTED const void* traffic_events() { return traffic::events; }
}
#pragma GCC visibility pop

// The compiler puts no call before a copy by memcpy, which is not inlined in such a build. It is a read and a write.
extern "C" UNCOUNTED __attribute__((visibility("hidden"))) void* memcpy(void* to, const void* from, size_t size) {
    traffic::access(traffic::READ, from, size, __builtin_return_address(0));
    traffic::access(traffic::WRITE, to, size, __builtin_return_address(0));
    return std::memmove(to, from, size);
}

// ---- what kernels are compiled with from here on

#undef __forceinline__
#define __forceinline__ inline __attribute__((always_inline))
#undef __syncthreads
#define __syncthreads() (traffic::met(traffic::BARRIER, 0), emulation::wait(emulation::AT_BARRIER, 0, __LINE__))
#undef __shfl_sync
#define __shfl_sync(mask, value, source) \
    (traffic::met(traffic::SHUFFLE, sizeof(value)), emulation::shuffle(mask, value, (unsigned)(source), __LINE__))
#undef __shfl_xor_sync
#define __shfl_xor_sync(mask, value, lanes)          \
    (traffic::met(traffic::SHUFFLE, sizeof(value)), \
     emulation::shuffle(mask, value, emulation::lane() ^ (lanes), __LINE__))
