// Splits numbers into terms of 16 bits, whose products with 16-bit features are exact in float32.
//
//   x_ij = scale (t_1 + t_2 [+ t_3])_ij,   t_1 = round(x / scale),   t_2 = round(x / scale - t_1),   ...
//
// float16 has 11 bits, so that two terms have 22; scale is the power of two that brings the largest |x_ij| into [2^14,
// 2^15), and what is 2^38 times smaller than that is lost. bfloat16 has 8 bits and the exponents of float32: three terms
// have all 24, and scale is 1.
//
// `largest` finds the largest |x|, and `split` writes the terms one after another. The largest is an integer maximum over
// the bits, which is the same in any order.
//
// Macros: TARGET (FLOAT16 or BFLOAT16), TERMS, WIDTH (numbers of a thread: 4 if n and both pointers allow it, else 1).
// Launch: 256 threads, WIDTH numbers each, grid (ceil(n / (256 WIDTH))); `largest` with WIDTH 4, whatever the pointers.
// Bytes moved per number: 4 read by each, and 2 TERMS written.

#define THREADS 256
#define AT_MOST 15  // |x| / scale is below 2 to this power, and float16 ends at 65504

typedef Kind<TARGET>::stored target_t;

__device__ __forceinline__ unsigned magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// x (n). bits (1): raised to the bits of the largest |x|; NaN is larger than infinity.
extern "C" __global__ void __launch_bounds__(THREADS)
largest(const float* __restrict__ x, long long n, unsigned* __restrict__ bits) {
    const long long first = (long long)blockIdx.x * (4 * THREADS) + threadIdx.x;
    unsigned most = 0;
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const long long i = first + e * THREADS;
        const unsigned one = i < n ? magnitude(x[i]) : 0;
        most = one > most ? one : most;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        const unsigned other = __shfl_xor_sync(FULL_WARP, most, offset);
        most = other > most ? other : most;
    }
    if (threadIdx.x % 32 == 0) atomicMax(bits, most);
}

// x (n). terms (TERMS, n). bits (1): of `largest`, or null for a scale of 1. scalars (3): becomes scale, 0 and 1, which
// a product takes as its alpha and beta.
extern "C" __global__ void __launch_bounds__(THREADS)
split(const float* __restrict__ x, long long n, const unsigned* __restrict__ bits, target_t* __restrict__ terms,
      float* __restrict__ scalars) {
    struct alignas(WIDTH * sizeof(float)) Numbers {
        float element[WIDTH];
    };
    struct alignas(WIDTH * sizeof(target_t)) Terms {
        target_t element[WIDTH];
    };
    // of 2^exponent <= largest < 2^(exponent + 1); zero and subnormal numbers count as 2^-112, so that scale is normal
    const int exponent = bits == nullptr ? AT_MOST - 1 : (int)(*bits >> 23) - 127;
    const int power = (exponent < -112 ? -112 : exponent) - (AT_MOST - 1);
    const float scale = __uint_as_float((unsigned)(power + 127) << 23), inverse = 1 / scale;
    const long long at = ((long long)blockIdx.x * THREADS + threadIdx.x) * WIDTH;
    if (at == 0) {
        scalars[0] = scale;
        scalars[1] = 0;
        scalars[2] = 1;
    }
    if (at >= n) return;
    Numbers rest = *reinterpret_cast<const Numbers*>(x + at);
#pragma unroll
    for (int e = 0; e < WIDTH; e++) rest.element[e] *= inverse;
#pragma unroll
    for (int t = 0; t < TERMS; t++) {
        Terms term;
#pragma unroll
        for (int e = 0; e < WIDTH; e++) {
            narrow(rest.element[e], term.element[e]);
            rest.element[e] -= widen(term.element[e]);
        }
        *reinterpret_cast<Terms*>(terms + t * n + at) = term;
    }
}
