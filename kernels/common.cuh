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
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) y.bits = 0x7fc0;  // rounding would turn some NaNs into infinity
    else y.bits = (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
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

// The accurate functions: __expf is off by 20 ulp at -17, where it decides the gradient of a confident row.
__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float logarithm_1p(float x) { return log1pf(x); }
__device__ __forceinline__ double logarithm_1p(double x) { return log1p(x); }

template <class T> __device__ __forceinline__ T larger(T a, T b) { return a > b ? a : b; }
template <class T> __device__ __forceinline__ T smaller(T a, T b) { return a < b ? a : b; }

struct Sum {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
struct Largest {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return larger(a, b); }
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
