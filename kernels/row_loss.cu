// Turns rows of scores into the gradients of their losses, in place.
//
//   softmax        l = log sum_j exp(z_j) - z_t             g_j = exp(z_j) / sum        g_t = -sum_{j != t} exp(z_j) / sum
//   hinge          l = sum_{j != t} max(0, z_j - z_t + 1)   g_j = [margin > 0]          g_t = -sum_{j != t} g_j
//   squared hinge  l = sum_{j != t} max(0, .)^2             g_j = 2 max(0, margin)      g_t = -sum_{j != t} g_j
//
// max_j z_j is subtracted before any exponential. The target t (the label's class) is left out of the sum over classes,
// since p_t - 1 and expm1(log p_t) lose all digits for a confident row. Rows are numbered r = i K + k: row i of the
// data under model k.
//
// How a row is held depends on its length (gpusoftmax/cuda/buckets.py has the table):
//   GROUP < 32    several lanes of a warp per row, one element per load
//   GROUP = 32    a warp per row, ITEMS 16-byte loads per thread, the row in registers
//   GROUP > 32    a block per row, otherwise the same
//   ITEMS = 0     a block per row too long for registers: an online maximum and sum, then a second pass over it
//
// A row need not start at a multiple of 16 bytes, and c may be any number. The row is covered by the 16-byte segments
// of memory that it touches: whole segments are loaded at once, and the two at its ends element by element.
//
// Macros: SCORE (kind), LOSS (0 softmax, 1 hinge, 2 squared hinge), MODE (GRADIENT, LOSSES, PROBABILITIES), GROUP,
//         ITEMS, WIDTH (elements per load: 1, or as many as fit in 16 bytes), THREADS, BEST (1: also find each arg max).
// Without labels there is no target: PROBABILITIES replaces the scores by probabilities, LOSSES only finds the arg max.
// Launch: THREADS threads, THREADS / GROUP rows per block, grid (ceil(rows / (THREADS / GROUP))).
// Bytes moved per row: c scores read and c written (LOSSES: none; ITEMS = 0: c read again), and 4 to 12 bytes more.

#define GRADIENT 0
#define LOSSES 1
#define PROBABILITIES 2
#define SOFTMAX 0
#define HINGE 1
#define SQUARED_HINGE 2
#define NOWHERE 0xffffffffu

typedef Kind<SCORE>::stored stored_t;
typedef Kind<SCORE>::computed real_t;

// The elements of a row that one thread works on.
struct Row {
    stored_t* start;   // start of the first segment, at or before the start of the row
    int skip;          // elements between these two
    int c;
    int lane;          // 0 .. GROUP - 1
    const real_t* bias;  // (c), added to the scores as they are loaded; or null

    __device__ __forceinline__ int column(int slot) const { return (slot * GROUP + lane) * WIDTH - skip; }

    __device__ __forceinline__ void load(int slot, real_t* out) const {
        int j = column(slot);
        if constexpr (WIDTH > 1) {
            if (j >= 0 && j + WIDTH <= c) {
                Vector<stored_t> v = *reinterpret_cast<const Vector<stored_t>*>(start + j + skip);
#pragma unroll
                for (int e = 0; e < WIDTH; e++) out[e] = biased(widen(v.element[e]), j + e);
                return;
            }
        }
#pragma unroll
        for (int e = 0; e < WIDTH; e++)
            out[e] = j + e >= 0 && j + e < c ? biased(widen(start[j + e + skip]), j + e) : (real_t)NEGATIVE_INFINITY;
    }

    __device__ __forceinline__ real_t biased(real_t z, int j) const { return bias == nullptr ? z : z + bias[j]; }

    __device__ __forceinline__ void store(int slot, const real_t* in) const {
        int j = column(slot);
        if constexpr (WIDTH > 1) {
            if (j >= 0 && j + WIDTH <= c) {
                Vector<stored_t> v;
#pragma unroll
                for (int e = 0; e < WIDTH; e++) narrow(in[e], v.element[e]);
                *reinterpret_cast<Vector<stored_t>*>(start + j + skip) = v;
                return;
            }
        }
#pragma unroll
        for (int e = 0; e < WIDTH; e++)
            if (j + e >= 0 && j + e < c) narrow(in[e], start[j + e + skip]);
    }

    __device__ __forceinline__ int slots() const { return (c + skip + GROUP * WIDTH - 1) / (GROUP * WIDTH); }
};

// scores: rows of c, stride elements apart. bias (K, c): added to the scores first, or null. labels (rows / K): class
// indices, or null (not in mode GRADIENT). weights (rows), or null if all are 1. row_losses (rows): unweighted losses,
// or null. best (rows): with BEST, the first column with the largest score; without labels, -1 for a row whose softmax
// is undefined (it has NaN or +inf). bad_row: lowered to the first row whose label is outside [0, c), if there is one.
extern "C" __global__ void __launch_bounds__(THREADS)
row_loss(stored_t* __restrict__ scores, long long stride, const real_t* __restrict__ bias,
         const int* __restrict__ labels,
         const real_t* __restrict__ weights, long long n_rows, int c, int K, real_t* __restrict__ row_losses,
         int* __restrict__ best, unsigned long long* __restrict__ bad_row) {
    __shared__ real_t scratch[32];
    __shared__ unsigned index_scratch[32];
    constexpr int ROWS = THREADS / GROUP;
    constexpr int HELD = ITEMS > 0 ? ITEMS : 1;
    const long long wanted = (long long)blockIdx.x * ROWS + threadIdx.x / GROUP;
    const bool present = wanted < n_rows;  // threads without a row take part in the reductions, too
    const long long r = present ? wanted : n_rows - 1;

    Row row;
    stored_t* first = scores + r * stride;
    row.skip = WIDTH > 1 ? (int)(reinterpret_cast<unsigned long long>(first) % 16 / sizeof(stored_t)) : 0;
    row.start = first - row.skip;
    row.c = c;
    row.lane = threadIdx.x % GROUP;
    row.bias = bias == nullptr ? nullptr : bias + (K == 1 ? 0 : r % K * c);
    const int n_slots = ITEMS > 0 ? ITEMS : row.slots();

    int t = -1;
    bool bad = false;
    if (MODE == GRADIENT || labels != nullptr) {
        t = labels[K == 1 ? r : r / K];
        bad = t < 0 || t >= c;
        if (bad) t = 0;
    }
    // all threads read this before any of them stores: reductions over a block have a barrier, but those within a warp
    // do not order memory accesses
    const real_t z_t = t >= 0 ? row.biased(widen(first[t]), t) : (real_t)NEGATIVE_INFINITY;
    if (GROUP <= 32) __syncwarp();
    real_t held[HELD][WIDTH];

    real_t top = (real_t)NEGATIVE_INFINITY, others = 0;
    unsigned place = NOWHERE;  // column of this thread's first largest score
    if constexpr (ITEMS > 0) {
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            row.load(i, held[i]);
#pragma unroll
            for (int e = 0; e < WIDTH; e++) top = larger(top, held[i][e]);
        }
        top = reduce<GROUP>(top, Largest(), scratch);
    } else {
        for (int i = 0; i < n_slots; i++) {
            row.load(i, held[0]);
            real_t above = top;
#pragma unroll
            for (int e = 0; e < WIDTH; e++) {
                if (BEST && held[0][e] > above) place = (unsigned)(row.column(i) + e);
                above = larger(above, held[0][e]);
            }
            if (LOSS == SOFTMAX) {
                if (above > top) others *= exponential(top - above);  // the first time this is exp(-inf) = 0
                top = above;
#pragma unroll
                for (int e = 0; e < WIDTH; e++)
                    if (row.column(i) + e != t && held[0][e] != (real_t)NEGATIVE_INFINITY)
                        others += exponential(held[0][e] - top);
            }
            top = above;
        }
        real_t mine = top;
        top = reduce<GROUP>(top, Largest(), scratch);
        if (LOSS == SOFTMAX && mine != top) others *= exponential(mine - top);
        if (mine != top) place = NOWHERE;
    }

    if constexpr (BEST) {  // here, because the exponentials will overwrite the scores in their registers
        if constexpr (ITEMS > 0) {
#pragma unroll
            for (int i = 0; i < ITEMS; i++)
#pragma unroll
                for (int e = 0; e < WIDTH; e++)
                    if (held[i][e] == top) place = smaller(place, (unsigned)(row.column(i) + e));
        }
        place = reduce<GROUP>(place, Smallest(), index_scratch);
        if (present && row.lane == 0) best[r] = place < (unsigned)c ? (int)place : 0;  // all scores are -inf or NaN
    }

    real_t value, factor, of_target;  // loss; factor of all other gradients; gradient of the target
    const real_t weight = weights == nullptr ? (real_t)1 : (real_t)weights[r];
    if (LOSS == SOFTMAX) {
        if constexpr (ITEMS > 0) {
#pragma unroll
            for (int i = 0; i < ITEMS; i++)
#pragma unroll
                for (int e = 0; e < WIDTH; e++) {
                    real_t power = exponential(held[i][e] - top);
                    if (MODE != LOSSES) held[i][e] = power;
                    if (row.column(i) + e != t) others += power;
                }
        }
        others = reduce<GROUP>(others, Sum(), scratch);
        const real_t e_t = t >= 0 ? exponential(z_t - top) : (real_t)0;
        const real_t total = others + e_t;
        // z_t - top is 0, or NaN where both are infinite
        value = z_t == top ? logarithm_1p(others) + (z_t - top) : (top - z_t) + logarithm(total);
        factor = weight / total;
        of_target = -others * factor;
        if (MODE != GRADIENT && BEST && labels == nullptr && present && row.lane == 0 && !(total >= 1)) best[r] = -1;
    } else {
        real_t loss = 0, slope = 0;
        for (int i = 0; i < n_slots; i++) {
            if constexpr (ITEMS == 0) row.load(i, held[0]);
#pragma unroll
            for (int e = 0; e < WIDTH; e++) {
                real_t margin = held[ITEMS > 0 ? i : 0][e] - z_t + 1;
                if (margin <= 0 || row.column(i) + e == t) margin = 0;  // NaN stays NaN
                loss += LOSS == HINGE ? margin : margin * margin;
                slope += LOSS == HINGE ? (margin > 0 ? (real_t)1 : margin) : 2 * margin;
            }
        }
        value = reduce<GROUP>(loss, Sum(), scratch);
        slope = reduce<GROUP>(slope, Sum(), scratch);
        factor = weight;
        of_target = -slope * weight;
    }

    if (!present) return;
    if (row.lane == 0) {
        if (row_losses != nullptr) row_losses[r] = bad ? (real_t)NOT_A_NUMBER : value;
        if (bad) atomicMin(bad_row, (unsigned long long)r);
    }
    if (MODE == LOSSES || bad) return;
    for (int i = 0; i < n_slots; i++) {
        if constexpr (ITEMS == 0) row.load(i, held[0]);
        real_t out[WIDTH];
#pragma unroll
        for (int e = 0; e < WIDTH; e++) {
            real_t z = held[ITEMS > 0 ? i : 0][e];
            if (LOSS == SOFTMAX) {
                out[e] = (ITEMS > 0 ? z : exponential(z - top)) * factor;
            } else {
                real_t margin = z - z_t + 1;
                if (margin <= 0) margin = 0;
                out[e] = (LOSS == HINGE ? (margin > 0 ? (real_t)1 : margin) : 2 * margin) * factor;
            }
            if (row.column(i) + e == t) out[e] = of_target;
        }
        row.store(i, out);
    }
}
