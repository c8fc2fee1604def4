// This text is put in front of every kernel (CuPy's cache does not follow an #include). Macros say what a kernel is
// compiled for: SCORE is one of the kinds below. All code is C++17 without headers, since NVRTC's wheel has none, and
// without library types, so that the tests can compile the same text for a CPU, with a small header in front.

#define FLOAT32 0
#define FLOAT16 1
#define BFLOAT16 2
#define FLOAT64 3
#define UINT8 4

#define FULL_WARP 0xffffffffu
#define NEGATIVE_INFINITY (-__int_as_float(0x7f800000))
#define NOT_A_NUMBER __int_as_float(0x7fc00000)

struct float16 {
    unsigned short bits;
};
struct bfloat16 {
    unsigned short bits;
};

// Conversions from the stored type to the type for arithmetic, and back with rounding to nearest even. Only scores and
// features are stored in narrow types, never sums.
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(unsigned char x) { return (float)x; }
__device__ __forceinline__ float widen(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ float widen(float16 x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#else
    unsigned magnitude = (unsigned)(x.bits & 0x7fff) << 13, sign = (unsigned)(x.bits & 0x8000) << 16;
    if (magnitude >= 0x7c00u << 13) return __uint_as_float(sign | magnitude | 0x7f800000u);
    float y = __uint_as_float(magnitude) * 5.192296858534828e33f;  // 2^112, which is right for subnormals, too
    return __uint_as_float(sign | __float_as_uint(y));
#endif
}

__device__ __forceinline__ void narrow(float x, float& y) { y = x; }
__device__ __forceinline__ void narrow(double x, double& y) { y = x; }
__device__ __forceinline__ void narrow(float x, double& y) { y = x; }
__device__ __forceinline__ void narrow(float x, bfloat16& y) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) y.bits = 0x7fc0;  // rounding would turn some NaNs into infinity
    else y.bits = (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
}
__device__ __forceinline__ void narrow(float x, float16& y) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) y.bits = (unsigned short)(sign | 0x7fffu);
    else if (magnitude >= 0x477ff000u) y.bits = (unsigned short)(sign | 0x7c00u);  // rounds to 65536 or more: infinity
    else if (magnitude < 0x38800000u) {  // subnormal: the addition of floats rounds at the right bit
        float rounded = __uint_as_float(magnitude) + 0.5f;
        y.bits = (unsigned short)(sign | (__float_as_uint(rounded) - 0x3f000000u));
    } else {
        magnitude += 0xfffu + ((magnitude >> 13) & 1u);
        y.bits = (unsigned short)(sign | ((magnitude - 0x38000000u) >> 13));
    }
#endif
}

template <int KIND> struct Kind;
template <> struct Kind<FLOAT32> { typedef float stored; typedef float computed; };
template <> struct Kind<FLOAT16> { typedef float16 stored; typedef float computed; };
template <> struct Kind<BFLOAT16> { typedef bfloat16 stored; typedef float computed; };
template <> struct Kind<FLOAT64> { typedef double stored; typedef double computed; };
template <> struct Kind<UINT8> { typedef unsigned char stored; typedef float computed; };

// 16 bytes that are loaded or stored at once.
template <class T> struct alignas(16) Vector {
    static constexpr int SIZE = 16 / sizeof(T);
    T element[SIZE];
};

// A load of 16 bytes that stays where it is written: the compiler would move loads to where their values are needed, and
// wait for one before it asks for the next.
template <class T> __device__ __forceinline__ Vector<T> load_segment(const Vector<T>* from) {
#ifdef __CUDA_ARCH__
    Vector<T> value;
    unsigned* word = reinterpret_cast<unsigned*>(&value);
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "l"(from));
    return value;
#else
    return *from;
#endif
}

// The numbers of a segment, in the type for arithmetic. A bfloat16 is the upper half of a float.
template <class T, class C> __device__ __forceinline__ void widen(const Vector<T>& x, C* out) {
#pragma unroll
    for (int e = 0; e < Vector<T>::SIZE; e++) out[e] = widen(x.element[e]);
}
template <> __device__ __forceinline__ void widen<bfloat16, float>(const Vector<bfloat16>& x, float* out) {
#pragma unroll
    for (int e = 0; e < 8; e += 2) {
        const unsigned both = reinterpret_cast<const unsigned*>(&x)[e / 2];
        out[e] = __uint_as_float(both << 16);
        out[e + 1] = __uint_as_float(both & 0xffff0000u);
    }
}

// A segment of numbers in the type in which they are stored. Two 16-bit numbers are made by one instruction.
template <class T, class C> __device__ __forceinline__ Vector<T> narrowed(const C* x) {
    Vector<T> value;
#pragma unroll
    for (int e = 0; e < Vector<T>::SIZE; e++) narrow(x[e], value.element[e]);
    return value;
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <> __device__ __forceinline__ Vector<bfloat16> narrowed<bfloat16, float>(const float* x) {
    Vector<bfloat16> value;
#pragma unroll
    for (int e = 0; e < 8; e += 2)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(reinterpret_cast<unsigned*>(&value)[e / 2]) : "f"(x[e + 1]), "f"(x[e]));
    return value;
}
template <> __device__ __forceinline__ Vector<float16> narrowed<float16, float>(const float* x) {
    Vector<float16> value;
#pragma unroll
    for (int e = 0; e < 8; e += 2)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(reinterpret_cast<unsigned*>(&value)[e / 2]) : "f"(x[e + 1]), "f"(x[e]));
    return value;
}
#endif

// The accurate functions: __expf is off by 20 ulp at -17, where it decides the gradient of a confident row.
__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float logarithm_1p(float x) { return log1pf(x); }
__device__ __forceinline__ double logarithm_1p(double x) { return log1p(x); }

// For a gradient that is stored in 16 bits: off by 4e-6 at -30, a tenth of what the storage rounds away.
template <class T> __device__ __forceinline__ double exponential_to_store(double x, T) { return exp(x); }
__device__ __forceinline__ float exponential_to_store(float x, float) { return expf(x); }
template <class T> __device__ __forceinline__ float exponential_to_store(float x, T) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
    return y;
#else
    return expf(x);
#endif
}

template <class T> __device__ __forceinline__ T smaller(T a, T b) { return a < b ? a : b; }
__device__ __forceinline__ float maximum(float a, float b) { return fmaxf(a, b); }  // of a number and NaN, the number
__device__ __forceinline__ double maximum(double a, double b) { return fmax(a, b); }

struct Sum {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
struct Maximum {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return maximum(a, b); }
};
struct Smallest {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return smaller(a, b); }
};

// Reduces over SIZE neighbouring threads, each of which gets the result. All threads of the block must call it. The
// order depends only on SIZE. scratch: 32 values of shared memory, used only if SIZE exceeds a warp.
template <int SIZE, class T, class Op> __device__ __forceinline__ T reduce(T value, Op op, T* scratch) {
    constexpr int IN_WARP = SIZE < 32 ? SIZE : 32;
#pragma unroll
    for (int offset = IN_WARP / 2; offset > 0; offset /= 2)
        value = op(value, __shfl_xor_sync(FULL_WARP, value, offset));
    if constexpr (SIZE > 32) {
        if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
        __syncthreads();
        value = scratch[0];
        for (int w = 1; w < SIZE / 32; w++) value = op(value, scratch[w]);
        __syncthreads();  // before the next reduction overwrites scratch
    }
    return value;
}

// Copies from global to shared memory that run beside the computation (sm_80 on). After wait_copies a thread finds what it
// copied itself; the others find it after a barrier that follows. `bytes` are read, and the rest of SIZE becomes zero.
template <int SIZE> __device__ __forceinline__ void copy_async(void* to, const void* from, int bytes = SIZE) {
#ifndef __CUDA_ARCH__
    emulation::copy_async(to, from, SIZE, bytes);
#elif __CUDA_ARCH__ >= 800
    const unsigned at = (unsigned)__cvta_generic_to_shared(to);
    if constexpr (SIZE == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at), "l"(from), "n"(SIZE), "r"(bytes)
                     : "memory");
#else
#pragma unroll
    for (int w = 0; w < SIZE / 4; w++)
        static_cast<unsigned*>(to)[w] = 4 * w < bytes ? static_cast<const unsigned*>(from)[w] : 0u;
#endif
}
__device__ __forceinline__ void copy_async16(void* to, const void* from) { copy_async<16>(to, from); }

// Closes a group of the copies that this thread has begun.
__device__ __forceinline__ void commit_copies() {
#ifndef __CUDA_ARCH__
    emulation::commit_copies();
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all groups but the last N.
template <int N> __device__ __forceinline__ void wait_copies() {
#ifndef __CUDA_ARCH__
    emulation::wait_copies(N);
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// ---- the losses of a row, in kernels that are compiled for one

#ifdef LOSS
#define SOFTMAX 0
#define HINGE 1
#define SQUARED_HINGE 2

// log sum_j exp(z_j) - z_t. total: the sum of exp(z_j - top); others: that without the target, whose score is z_t. If the
// target is not the largest, others has the 1 of the largest, and the loss is above both log 2 and top - z_t.
template <class T> __device__ __forceinline__ T softmax_loss(T top, T z_t, T others, T total) {
    return (top - z_t) + logarithm_1p(z_t == top ? others : total - 1);
}

// max(0, z - z_t + 1); NaN stays NaN.
template <class T> __device__ __forceinline__ T margin(T z, T z_t) {
    const T m = z - z_t + 1;
    return m <= 0 ? (T)0 : m;
}
template <class T> __device__ __forceinline__ T hinge_loss(T m) { return LOSS == HINGE ? m : m * m; }
template <class T> __device__ __forceinline__ T hinge_slope(T m) {
    return LOSS == HINGE ? (m > 0 ? (T)1 : m) : 2 * m;
}
#endif

// ---- clusters: blocks that run together and store into each other's shared memory (sm_90 on)

// Each thread of the cluster arrives and waits, in turns. What was stored before a thread arrived is there after the wait.
__device__ __forceinline__ void cluster_arrive() {
#ifndef __CUDA_ARCH__
    emulation::cluster_arrive();
#elif __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait() {
#ifndef __CUDA_ARCH__
    emulation::cluster_wait(__LINE__);
#elif __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ void store_at(unsigned at, float value) {
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(at), "f"(value) : "memory");
}
__device__ __forceinline__ void store_at(unsigned at, double value) {
    asm volatile("st.shared::cluster.f64 [%0], %1;" ::"r"(at), "d"(value) : "memory");
}
__device__ __forceinline__ void store_at(unsigned at, unsigned value) {
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(at), "r"(value) : "memory");
}
#endif

// Stores to where the block of a rank in the cluster has what is `mine` here.
template <class T> __device__ __forceinline__ void store_in_cluster(T* mine, unsigned rank, T value) {
#ifndef __CUDA_ARCH__
    emulation::store_in_cluster(mine, rank, value);
#elif __CUDA_ARCH__ >= 900
    unsigned at = (unsigned)__cvta_generic_to_shared(mine);
    asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(at) : "r"(rank));
    store_at(at, value);
#endif
}
