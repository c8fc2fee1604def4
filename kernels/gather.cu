// Rows of X, by index or in order, converted to the type of a matrix product's operand.
//
//   out[i, p] = X[rows[i], p]    or, with rows null,    out[i, p] = X[first + i, p]
//
// Macros: SOURCE and TARGET (kinds), WIDTH (elements a thread: 4 where d, stride and both pointers are multiples of 4
//         elements, else 1).
// Launch: 256 threads, WIDTH elements each, grid (ceil(m d / (256 WIDTH))); m d is below 2^31, which a chunk respects.
// Bytes moved: an element's of SOURCE read, of TARGET written; 8 a row for the index.

#define THREADS 256

typedef Kind<SOURCE>::stored source_t;
typedef Kind<TARGET>::stored target_t;

template <class T> struct alignas(WIDTH * sizeof(T)) Pack {
    T element[WIDTH];
};

// X: rows of d, stride elements apart; out (m, d) without gaps.
extern "C" __global__ void __launch_bounds__(THREADS)
gather(const source_t* __restrict__ X, long long stride, const long long* __restrict__ rows, long long first,
       unsigned m, unsigned d, target_t* __restrict__ out) {
    const unsigned packs = d / WIDTH, at = blockIdx.x * THREADS + threadIdx.x;
    const unsigned i = at / packs, p = at % packs * WIDTH;
    if (i >= m) return;
    const long long row = rows == nullptr ? first + i : rows[i];
    const Pack<source_t> in = *reinterpret_cast<const Pack<source_t>*>(X + row * stride + p);
    Pack<target_t> converted;
#pragma unroll
    for (int e = 0; e < WIDTH; e++) narrow(widen(in.element[e]), converted.element[e]);
    *reinterpret_cast<Pack<target_t>*>(out + (long long)i * d + p) = converted;
}
