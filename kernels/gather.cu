// Copies rows of X, by index or in order, and converts them to the type of an operand of a matrix product.
//
//   out[i, p] = X[rows[i], p]    or, with rows null,    out[i, p] = X[first + i, p]
//
// Macros: SOURCE and TARGET (kinds), WIDTH (elements per thread: 4 if d, stride and both pointers are multiples of 4
//         elements, else 1).
// Launch: 256 threads, WIDTH elements each, grid (ceil(m d / (256 WIDTH))). m d must be below 2^31, as it is in a chunk.
// Bytes moved per element: one of SOURCE read, one of TARGET written; and 8 per row for the index.

#define THREADS 256

typedef Kind<SOURCE>::stored source_t;
typedef Kind<TARGET>::stored target_t;

template <class T> struct alignas(WIDTH * sizeof(T)) Pack {
    T element[WIDTH];
};

// X: rows of d elements, stride elements apart. out: (m, d), contiguous.
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
