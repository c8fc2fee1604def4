// Products and sums of a sparse matrix that is stored by rows: row i has the entries indptr[i] <= k < indptr[i + 1], and
// entry k has the value x_k in column j_k. A gradient is a product, too: that of the rows of the transpose.
//
//   multiply_rows   out[i] = sum_k x_k M[j_k] + bias                                 over row i, or row rows[i]
//   sum_columns     out[i] = (sum_k s_k, sum_k s_k x_k, sum_k s_k (x_k - centre_i)^2)   with s_k = weights[j_k]
//   add_segments    adds what the two above leave of long rows
//   fill_columns    out[i, place[j_k]] = x_k                                          over row rows[i]
//
// A warp sums up to SEGMENT entries. It loads 32 at a time, a lane one entry, and hands them round by shuffles. LANES
// lanes have the columns of the result; if there are fewer than 32, the warp has 32 / LANES parts, which take entries in
// turn, and whose sums are added after each segment. Each further segment of a row has a warp of its own, which writes to
// `partials`, and add_segments adds them in their order. Without a list of segments a row's warp sums them all, one by
// one, to the same bits. So the bits of a row depend on its entries alone.
//
// Macros: VALUE (kind of the values, or ONES: all are 1, and not in memory), SCORE (FLOAT32 or FLOAT64: M and sums),
//         SQUARED (1: the squares of the values are multiplied), SEGMENT, LANES (a power of two), COLUMNS (of a lane;
//         more than 1 only with 32 lanes). Kernels other than multiply_rows use VALUE, SCORE and SEGMENT alone.
// Launch: 256 threads. multiply_rows: grid (ceil((n + n_extra) / 8), ceil(q / (LANES COLUMNS))); sum_columns: grid
//         (ceil((n + n_extra) / 8)); add_segments: grid (ceil(n_long q / 256)); fill_columns: grid (ceil(n / 8)).
// Bytes moved per entry: 4 for the index, 1, 4, 8 or none for the value, and a row of M, q numbers, which the caches may
// hold. Per row: q numbers of the result, 8 to 24 of indptr and rows. Per further segment: q numbers twice.

#define ONES 5
#define THREADS 256
#define WARPS (THREADS / 32)
#define PARTS (32 / LANES)
#define UNROLLED (LANES < 8 ? LANES : 8 / COLUMNS)  // entries: 8 numbers of M are on their way to a lane at a time

typedef Kind<SCORE>::computed real_t;
#if VALUE == ONES
typedef unsigned char value_t;
#else
typedef Kind<VALUE>::stored value_t;
#endif

__device__ __forceinline__ real_t value_of(const value_t* __restrict__ values, long long k) {
    if (VALUE == ONES) return 1;
    const real_t x = (real_t)widen(values[k]);
    return SQUARED ? x * x : x;
}

// The entries that a warp sums: of row number `row`, from `first` to before `stop`.
struct Task {
    long long number;  // of the warp: rows come first, and then the further segments
    long long row, first, stop;
    bool extra;     // a further segment of a row?
    bool complete;  // all of the row?

    __device__ __forceinline__ Task(const long long* indptr, const long long* rows, long long n,
                                    const long long* extra_rows, const long long* extra_firsts, long long n_extra) {
        number = (long long)blockIdx.x * WARPS + threadIdx.x / 32;
        if (number >= n + n_extra) return;
        extra = number >= n;
        row = extra ? extra_rows[number - n] : rows == nullptr ? number : rows[number];
        first = extra ? extra_firsts[number - n] : indptr[row];
        const long long end = indptr[row + 1];
        stop = n_extra > 0 ? smaller(end, first + SEGMENT) : end;
        complete = !extra && stop == end;
    }
};

// indices and values: of all entries. M (columns of the matrix, q). bias (q), or null. rows (n), or null for all rows.
// extra_rows, extra_firsts (n_extra): row and first entry of each segment that is not its row's first; with rows there
// are none. partials (n_extra, q). out (n, q).
// 4 blocks: else some variants spill what does not change in the loop, for the sake of a sixth block.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
multiply_rows(const long long* __restrict__ indptr, const int* __restrict__ indices,
              const value_t* __restrict__ values, const real_t* __restrict__ M, const real_t* __restrict__ bias,
              const long long* __restrict__ rows, long long n, int q, const long long* __restrict__ extra_rows,
              const long long* __restrict__ extra_firsts, long long n_extra, real_t* __restrict__ partials,
              real_t* __restrict__ out) {
    const Task task(indptr, rows, n, extra_rows, extra_firsts, n_extra);
    if (task.number >= n + n_extra) return;
    const int lane = threadIdx.x % 32, part = lane / LANES;
    const int column = (int)blockIdx.y * (LANES * COLUMNS) + lane % LANES;
    real_t total[COLUMNS] = {};
    for (long long first = task.first; first < task.stop; first += SEGMENT) {
        const long long stop = smaller(task.stop, first + SEGMENT);
        real_t sum[COLUMNS] = {};
        for (long long k = first; k < stop; k += 32) {
            const int count = (int)smaller(stop - k, 32ll);
            int index = 0;
            real_t value = 0;
            if (lane < count) {
                index = indices[k + lane];
                value = value_of(values, k + lane);
            }
#pragma unroll (UNROLLED)
            for (int e = 0; e < count; e += PARTS) {
                const int from = e + part;
                const real_t* row = M + (long long)__shfl_sync(FULL_WARP, index, from) * q;
                const real_t x = VALUE == ONES ? (real_t)1 : __shfl_sync(FULL_WARP, value, from);
#pragma unroll
                for (int j = 0; j < COLUMNS; j++)
                    if (from < count && column + j * LANES < q) sum[j] += x * row[column + j * LANES];
            }
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
#pragma unroll
            for (int offset = LANES; offset < 32; offset *= 2) sum[j] += __shfl_xor_sync(FULL_WARP, sum[j], offset);
            total[j] += sum[j];
        }
    }
    real_t* to = task.extra ? partials + (task.number - n) * q : out + task.number * q;
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        const int at = column + j * LANES;
        if (part == 0 && at < q) to[at] = bias != nullptr && task.complete ? total[j] + bias[at] : total[j];
    }
}

// weights (columns of the matrix) and centre (n). partials (n_extra, 3). out (n, 3).
extern "C" __global__ void __launch_bounds__(THREADS)
sum_columns(const long long* __restrict__ indptr, const int* __restrict__ indices, const value_t* __restrict__ values,
            const double* __restrict__ weights, const double* __restrict__ centre, long long n,
            const long long* __restrict__ extra_rows, const long long* __restrict__ extra_firsts, long long n_extra,
            double* __restrict__ partials, double* __restrict__ out) {
    const Task task(indptr, nullptr, n, extra_rows, extra_firsts, n_extra);
    if (task.number >= n + n_extra) return;
    const int lane = threadIdx.x % 32;
    const double middle = centre[task.row];
    double sums[3] = {};
    for (long long k = task.first + lane; k < task.stop; k += 32) {
        const double s = weights[indices[k]], x = value_of(values, k), off = x - middle;
        sums[0] += s;
        sums[1] += s * x;
        sums[2] += s * off * off;
    }
    double* to = task.extra ? partials + (task.number - n) * 3 : out + task.number * 3;
#pragma unroll
    for (int j = 0; j < 3; j++) {
        const double total = reduce<32>(sums[j], Sum(), (double*)nullptr);
        if (lane == 0) to[j] = total;
    }
}

// long_rows (n_long): rows with more than one segment. starts (n_long + 1): the first of each one's partials. bias (q),
// or null: it is added last. out has the first segment's sums.
extern "C" __global__ void __launch_bounds__(THREADS)
add_segments(const real_t* __restrict__ partials, const long long* __restrict__ long_rows,
             const long long* __restrict__ starts, long long n_long, int q, const real_t* __restrict__ bias,
             real_t* __restrict__ out) {
    const long long at = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (at >= n_long * q) return;
    const long long i = at / q;
    const int j = (int)(at % q);
    real_t* to = out + long_rows[i] * q + j;
    real_t total = *to;
    for (long long s = starts[i]; s < starts[i + 1]; s++) total += partials[s * q + j];
    *to = bias == nullptr ? total : total + bias[j];
}

// place (columns of the matrix): a column of out, or -1 for those that are left out. rows (n). out (n, width): zeros.
extern "C" __global__ void __launch_bounds__(THREADS)
fill_columns(const long long* __restrict__ indptr, const int* __restrict__ indices, const value_t* __restrict__ values,
             const int* __restrict__ place, const long long* __restrict__ rows, long long n, int width,
             real_t* __restrict__ out) {
    const long long i = (long long)blockIdx.x * WARPS + threadIdx.x / 32;
    if (i >= n) return;
    const long long end = indptr[rows[i] + 1];
    for (long long k = indptr[rows[i]] + threadIdx.x % 32; k < end; k += 32) {
        const int at = place[indices[k]];
        if (at >= 0) out[i * width + at] = value_of(values, k);
    }
}
