// Turns rows of scores into the gradients of their losses, in place.
//
//   softmax        l = log sum_j exp(z_j) - z_t             g_j = exp(z_j) / sum        g_t = -sum_{j != t} exp(z_j) / sum
//   hinge          l = sum_{j != t} max(0, z_j - z_t + 1)   g_j = [margin > 0]          g_t = -sum_{j != t} g_j
//   squared hinge  l = sum_{j != t} max(0, .)^2             g_j = 2 max(0, margin)      g_t = -sum_{j != t} g_j
//
// max_j z_j is subtracted before any exponential. The target t (the label's class) is left out of the sum over classes,
// since p_t - 1 and expm1(log p_t) lose all digits for a confident row: its score is replaced by -inf as soon as it is
// loaded, and its gradient is stored last. Rows are numbered r = i K + k: row i of the data under model k. They follow
// each other in memory without gaps.
//
// HOLD says where a row is between its only read and its write (gpusoftmax/cuda/buckets.py has the table):
//   FLAT       ROWS rows of COLUMNS classes are one piece of shared memory; a thread has a row
//   REGISTERS  GROUP lanes of a warp have a row, ITEMS segments of 16 bytes each
//   SHARED     a block has a row in shared memory, and asks for the next one while it writes this one
//   STREAMED   a block has a row that is longer than that, and reads it twice
//
// A segment is 16 bytes of memory at a multiple of 16 bytes; all loads and stores of scores are segments. A row that does
// not begin or end at such a multiple shares its first and last segment with its neighbours: they are loaded whole, the
// elements that are not the row's are masked, and stored one by one. So the first segment of the first row and the last
// segment of the last row must lie within the allocation, as they do in CuPy, PyTorch and JAX, which round sizes up. All
// loads of a row are queued before anything waits for one of them.
//
// Macros: SCORE (kind), LOSS (0 softmax, 1 hinge, 2 squared hinge), MODE (GRADIENT, LOSSES, PROBABILITIES), HOLD, GROUP
//         (threads a row), ITEMS, THREADS (a block), ROWS (a block), COLUMNS and PACK (FLAT: the classes, and how many
//         of a row's elements a thread takes at a time), ALIGNED (1: all rows, or FLAT: the first, begin at a multiple
//         of 16 bytes, and so does the bias), BIAS (1: there is one), BEST (1: also find each arg max).
// Without labels there is no target: PROBABILITIES replaces the scores by probabilities, LOSSES only finds the arg max.
// Launch: THREADS threads, grid (ceil(rows / ROWS)); SHARED: 16 bytes of dynamic shared memory for each segment that a
//         row can touch, rounded up to a multiple of THREADS.
// Bytes moved per row: c scores read and c written (LOSSES: none; STREAMED: c read again, once more for a hinge), and 4
//                      to 12 bytes more.

#define GRADIENT 0
#define LOSSES 1
#define PROBABILITIES 2
#define SOFTMAX 0
#define HINGE 1
#define SQUARED_HINGE 2
#define FLAT 0
#define REGISTERS 1
#define SHARED 2
#define STREAMED 3
#define NOWHERE 0xffffffffu
#define LOWEST ((real_t)NEGATIVE_INFINITY)
// If rows are not whole segments, each number of the bias is a load: eight of them for a segment of 16-bit scores would
// take registers for which fewer blocks fit.
#define TOGETHER (ALIGNED || sizeof(stored_t) >= 4)

typedef Kind<SCORE>::stored stored_t;
typedef Kind<SCORE>::computed real_t;
typedef Vector<stored_t> Segment;
constexpr int WIDTH = Segment::SIZE;

// The arguments of the kernel, which are explained there.
struct Rows {
    stored_t* scores;
    const real_t* bias;
    const int* labels;
    const real_t* weights;
    long long n;
    int c, K;
    real_t* losses;
    int* best;
    unsigned long long* bad_row;

    __device__ __forceinline__ bool labelled() const { return MODE == GRADIENT || labels != nullptr; }
    // The row of the data; in 32 bits where they suffice: a division of 64 takes some forty instructions.
    __device__ __forceinline__ long long example(long long r) const {
        return K == 1 ? r : r <= 0xffffffffll ? (long long)((unsigned)r / (unsigned)K) : r / K;
    }
    __device__ __forceinline__ int label(long long i) const { return labelled() ? labels[i] : -1; }
    __device__ __forceinline__ real_t weight(long long r) const { return weights == nullptr ? (real_t)1 : weights[r]; }
    __device__ __forceinline__ const real_t* bias_of(long long r, long long i) const { return bias + (r - i * K) * c; }
    __device__ __forceinline__ bool bad(int label) const { return labelled() && (label < 0 || label >= c); }
};

// ---- the loss of a row

// The largest score so far and its first column.
struct Top {
    real_t score = LOWEST;
    unsigned place = NOWHERE;

    __device__ __forceinline__ void see(real_t z, int column) {
        if constexpr (BEST) {
            if (z > score) {
                score = z;
                place = (unsigned)column;
            }
        } else {
            score = maximum(score, z);
        }
    }

    // The target is not among the scores that were seen.
    __device__ __forceinline__ void see_target(real_t z, int column) {
        if (z > score) place = (unsigned)column;
        else if (z == score && z > LOWEST) place = smaller(place, (unsigned)column);
        score = maximum(score, z);
    }

    // The top of SIZE neighbouring threads.
    template <int SIZE> __device__ __forceinline__ Top over() const {
        Top all;
        all.score = reduce<SIZE>(score, Maximum(), (real_t*)nullptr);
        if (BEST) all.place = reduce<SIZE>(score == all.score ? place : NOWHERE, Smallest(), (unsigned*)nullptr);
        return all;
    }
};

// max(0, z - z_t + 1); NaN stays NaN
__device__ __forceinline__ real_t margin(real_t z, real_t z_t) {
    const real_t m = z - z_t + 1;
    return m <= 0 ? (real_t)0 : m;
}
__device__ __forceinline__ real_t hinge_loss(real_t m) { return LOSS == HINGE ? m : m * m; }
__device__ __forceinline__ real_t hinge_slope(real_t m) { return LOSS == HINGE ? (m > 0 ? (real_t)1 : m) : 2 * m; }

struct Outcome {
    real_t loss;       // unweighted
    real_t factor;     // of exp(z_j - top), or of the slope of a margin
    real_t of_target;  // gradient
    bool defined;      // softmax: its sum is a number
};

// others: the sum of exp(z_j - top) over all classes but the target, whose score is z_t.
__device__ __forceinline__ Outcome softmax_outcome(real_t top, real_t others, real_t z_t, bool labelled, real_t weight) {
    const real_t total = others + (labelled ? exponential(z_t - top) : (real_t)0);
    Outcome found;
    // if the target is not the largest, others has the 1 of the largest, and the loss is above log 2 or top - z_t
    found.loss = (top - z_t) + logarithm_1p(z_t == top ? others : total - 1);
    found.factor = weight / total;
    found.of_target = -others * found.factor;
    found.defined = total >= 1;
    return found;
}

__device__ __forceinline__ Outcome hinge_outcome(real_t loss, real_t slope, real_t weight) {
    return {loss, weight, -slope * weight, true};
}

// What thread of a row writes beside the scores.
__device__ __forceinline__ void report(const Rows& rows, long long r, const Outcome& found, Top top, bool bad) {
    if (rows.losses != nullptr) rows.losses[r] = bad ? (real_t)NOT_A_NUMBER : found.loss;
    if constexpr (BEST) {
        const bool undefined = LOSS == SOFTMAX && MODE != GRADIENT && rows.labels == nullptr && !found.defined;
        rows.best[r] = undefined ? -1 : top.place < (unsigned)rows.c ? (int)top.place : 0;  // 0: all are -inf or NaN
    }
    if (bad) atomicMin(rows.bad_row, (unsigned long long)r);
}

// ---- a row as segments

struct Row {
    stored_t* start;     // of its first segment
    const real_t* bias;  // (c), set by `with_bias`
    int skip;            // elements of the first segment that come before the row
    int c;

    __device__ __forceinline__ Row(const Rows& rows, long long r) {
        stored_t* first = rows.scores + r * rows.c;
        skip = ALIGNED ? 0 : (int)(reinterpret_cast<unsigned long long>(first) % 16 / sizeof(stored_t));
        start = first - skip;
        bias = nullptr;
        c = rows.c;
    }
    __device__ __forceinline__ void with_bias(const Rows& rows, long long r, long long i) {
        if (BIAS) bias = rows.bias_of(r, i);
    }

    __device__ __forceinline__ int segments() const { return (skip + c + WIDTH - 1) / WIDTH; }
    __device__ __forceinline__ bool has(int segment) const { return segment * WIDTH < skip + c; }
    __device__ __forceinline__ int segment_of(int column) const { return (skip + column) / WIDTH; }
    __device__ __forceinline__ const Segment* at(int segment) const {
        return reinterpret_cast<const Segment*>(start) + segment;
    }

    // z: the scores of a segment that was loaded; -inf where the row has no column. With TOGETHER they get the bias here:
    // nothing branches, so that its loads for all segments of a thread are queued together; else in `finish`.
    __device__ __forceinline__ void scores(int segment, const Segment& loaded, real_t* z) const {
        const int j = segment * WIDTH - skip;
        widen(loaded, z);
        if (ALIGNED) {  // then a segment is the row's or not
            const bool whole = has(segment);
            if (BIAS) add_whole_bias(whole ? j : 0, z);
#pragma unroll
            for (int e = 0; e < WIDTH; e++) z[e] = whole ? z[e] : LOWEST;
        } else {
#pragma unroll
            for (int e = 0; e < WIDTH; e++) {
                const bool inside = (unsigned)(j + e) < (unsigned)c;
                if (BIAS && TOGETHER) z[e] += bias[inside ? j + e : 0];
                z[e] = inside ? z[e] : LOWEST;
            }
        }
    }

    // Adds the bias if `scores` has not. If the target t is in the segment, its score becomes z_t, and -inf takes its place.
    __device__ __forceinline__ void finish(int segment, int t, real_t* z, real_t& z_t) const {
        const int j = segment * WIDTH - skip, at = t - j;
        if (BIAS && !TOGETHER) {
#pragma unroll
            for (int e = 0; e < WIDTH; e++)
                if ((unsigned)(j + e) < (unsigned)c) z[e] += bias[j + e];
        }
        if ((unsigned)at >= (unsigned)WIDTH || t < 0) return;
#pragma unroll
        for (int e = 0; e < WIDTH; e++)
            if (e == at) {
                z_t = z[e];
                z[e] = LOWEST;
            }
    }

    __device__ __forceinline__ void add_whole_bias(int j, real_t* z) const {
        constexpr int SIZE = Vector<real_t>::SIZE;
#pragma unroll
        for (int v = 0; v < WIDTH / SIZE; v++) {
            const Vector<real_t> part = reinterpret_cast<const Vector<real_t>*>(bias + j)[v];
#pragma unroll
            for (int e = 0; e < SIZE; e++) z[v * SIZE + e] += part.element[e];
        }
    }

    __device__ __forceinline__ void store(int segment, const real_t* z) const {
        const int j = segment * WIDTH - skip;
        if (!has(segment)) return;
        if (ALIGNED || (j >= 0 && j + WIDTH <= c)) {
            reinterpret_cast<Segment*>(start)[segment] = narrowed<stored_t>(z);
        } else {
#pragma unroll
            for (int e = 0; e < WIDTH; e++)
                if (j + e >= 0 && j + e < c) narrow(z[e], start[skip + j + e]);
        }
    }

    __device__ __forceinline__ void store_target(int t, real_t of_target) const { narrow(of_target, start[skip + t]); }
};

#if HOLD == REGISTERS

__device__ __forceinline__ void row_losses(const Rows& rows) {
    const long long wanted = (long long)blockIdx.x * ROWS + threadIdx.x / GROUP;
    const bool present = wanted < rows.n;  // threads without a row take part in the reductions, too
    const long long r = present ? wanted : rows.n - 1;
    const int lane = threadIdx.x % GROUP;
    Row row(rows, r);

    Segment loaded[ITEMS];
#pragma unroll
    for (int s = 0; s < ITEMS; s++)
        if (row.has(s * GROUP + lane)) loaded[s] = load_segment(row.at(s * GROUP + lane));
    const long long i = rows.example(r);
    row.with_bias(rows, r, i);
    int t = rows.label(i);
    const real_t weight = rows.weight(r);
    const bool bad = rows.bad(t);
    if (bad) t = 0;

    real_t z[ITEMS][WIDTH], z_t = LOWEST;
    Top top;
#pragma unroll
    for (int s = 0; s < ITEMS; s++) row.scores(s * GROUP + lane, loaded[s], z[s]);
#pragma unroll
    for (int s = 0; s < ITEMS; s++) {
        const int segment = s * GROUP + lane;
        row.finish(segment, t, z[s], z_t);
#pragma unroll
        for (int e = 0; e < WIDTH; e++) top.see(z[s][e], segment * WIDTH - row.skip + e);
    }
    top = top.over<GROUP>();
    const int owner = t < 0 ? 0 : row.segment_of(t) % GROUP;
    z_t = __shfl_sync(FULL_WARP, z_t, threadIdx.x % 32 - lane + owner);
    if (rows.labelled()) top.see_target(z_t, t);

    Outcome found;
    if constexpr (LOSS == SOFTMAX) {
        real_t others = 0;
#pragma unroll
        for (int s = 0; s < ITEMS; s++)
#pragma unroll
            for (int e = 0; e < WIDTH; e++) {
                z[s][e] = exponential(z[s][e] - top.score);
                others += z[s][e];
            }
        others = reduce<GROUP>(others, Sum(), (real_t*)nullptr);
        found = softmax_outcome(top.score, others, z_t, rows.labelled(), weight);
    } else {
        real_t loss = 0, slope = 0;
#pragma unroll
        for (int s = 0; s < ITEMS; s++)
#pragma unroll
            for (int e = 0; e < WIDTH; e++) {
                const real_t m = margin(z[s][e], z_t);
                loss += hinge_loss(m);
                z[s][e] = hinge_slope(m);
                slope += z[s][e];
            }
        loss = reduce<GROUP>(loss, Sum(), (real_t*)nullptr);
        slope = reduce<GROUP>(slope, Sum(), (real_t*)nullptr);
        found = hinge_outcome(loss, slope, weight);
    }

    if (!present) return;
    if (lane == 0) report(rows, r, found, top, bad);
    if (MODE == LOSSES || bad) return;
#pragma unroll
    for (int s = 0; s < ITEMS; s++) {
#pragma unroll
        for (int e = 0; e < WIDTH; e++) z[s][e] *= found.factor;
        row.store(s * GROUP + lane, z[s]);
    }
    if (rows.labelled() && lane == owner) row.store_target(t, found.of_target);
}

#elif HOLD == SHARED || HOLD == STREAMED

constexpr int WARPS = THREADS / 32;
constexpr int AHEAD = HOLD == SHARED ? 2 : 4;  // segments that a thread has loaded before it waits for the first

// What the warps of a block tell each other; there are two, so that one barrier a row is enough.
struct Exchange {
    real_t top[WARPS], sum[WARPS], second[WARPS];
    unsigned place[WARPS];
    real_t of_target;  // score
};

// Brings the sums of exponentials of neighbouring threads, each relative to its own top, to the top of all of them.
__device__ __forceinline__ void join(Top& top, real_t& sum) {
    const Top all = top.over<32>();
    if (top.score != all.score) sum *= exponential(top.score - all.score);
    sum = reduce<32>(sum, Sum(), (real_t*)nullptr);
    top = all;
}

// The top and the sum of a block; all threads get them. z_t: of the thread that has the target, `owner`; all get it.
__device__ __forceinline__ void join_block(Exchange& exchange, Top& top, real_t& sum, real_t& z_t, int owner) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    join(top, sum);
    if (lane == 0) {
        exchange.top[warp] = top.score;
        exchange.place[warp] = top.place;
        exchange.sum[warp] = sum;
    }
    if ((int)threadIdx.x == owner) exchange.of_target = z_t;
    __syncthreads();
    top = Top();
    sum = 0;
    if (lane < WARPS) {
        top.score = exchange.top[lane];
        top.place = exchange.place[lane];
        sum = exchange.sum[lane];
    }
    join(top, sum);
    z_t = exchange.of_target;
}

__device__ __forceinline__ void sum_block(Exchange& exchange, real_t& a, real_t& b) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    a = reduce<32>(a, Sum(), (real_t*)nullptr);
    b = reduce<32>(b, Sum(), (real_t*)nullptr);
    if (lane == 0) {
        exchange.sum[warp] = a;
        exchange.second[warp] = b;
    }
    __syncthreads();
    a = reduce<32>(lane < WARPS ? exchange.sum[lane] : (real_t)0, Sum(), (real_t*)nullptr);
    b = reduce<32>(lane < WARPS ? exchange.second[lane] : (real_t)0, Sum(), (real_t*)nullptr);
}

__device__ __forceinline__ void row_losses(const Rows& rows) {
    extern __shared__ Segment held[];  // SHARED: a thread reads the segments that it asked for itself, and no others
    __shared__ Exchange exchanges[2][2];
    const int lane = threadIdx.x;
    const long long begin = (long long)blockIdx.x * ROWS, end = smaller(rows.n, begin + ROWS);

    auto fetch = [&](const Row& row, int segment) {
        if (HOLD == SHARED && row.has(segment)) copy_async16(&held[segment], row.at(segment));
    };
    // calls f(segment, scores) for each of the thread's segments; z_t is set by the thread that has the target
    auto for_each = [&](const Row& row, int t, real_t& z_t, auto f) {
        const int n = row.segments();
        for (int first = lane; first < n; first += AHEAD * THREADS) {
            Segment loaded[AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                const int segment = first + a * THREADS;
                if (segment < n) loaded[a] = HOLD == SHARED ? held[segment] : load_segment(row.at(segment));
            }
            real_t z[AHEAD][WIDTH];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) row.scores(first + a * THREADS, loaded[a], z[a]);
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                const int segment = first + a * THREADS;
                if (segment >= n) break;
                row.finish(segment, t, z[a], z_t);
                f(segment, z[a]);
            }
        }
    };

    for (int segment = lane; segment < Row(rows, begin).segments(); segment += THREADS)
        fetch(Row(rows, begin), segment);
    commit_copies();
    int next_t = rows.label(rows.example(begin));
    real_t next_weight = rows.weight(begin);

    for (long long r = begin; r < end; r++) {
        Row row(rows, r);
        row.with_bias(rows, r, rows.example(r));
        const Row next(rows, r + 1 < end ? r + 1 : r);
        int t = next_t;
        const real_t weight = next_weight;
        if (r + 1 < end) {
            next_t = rows.label(rows.example(r + 1));
            next_weight = rows.weight(r + 1);
        }
        const bool bad = rows.bad(t);
        if (bad) t = 0;
        const int owner = t < 0 ? 0 : row.segment_of(t) % THREADS;
        Exchange* exchange = exchanges[r % 2];
        wait_copies<0>();

        real_t z_t = LOWEST, others = 0, ignored;
        Top top;
        for_each(row, t, z_t, [&](int segment, real_t* z) {
            const real_t before = top.score;
#pragma unroll
            for (int e = 0; e < WIDTH; e++) top.see(z[e], segment * WIDTH - row.skip + e);
            if (LOSS != SOFTMAX) return;
            if (top.score > before) others *= exponential(before - top.score);  // the first time this is exp(-inf) = 0
            const real_t base = top.score == LOWEST ? (real_t)0 : top.score;
#pragma unroll
            for (int e = 0; e < WIDTH; e++) others += exponential(z[e] - base);
        });
        join_block(exchange[0], top, others, z_t, owner);
        if (rows.labelled()) {
            const real_t before = top.score;
            top.see_target(z_t, t);
            if (top.score > before) others *= exponential(before - top.score);
        }

        Outcome found;
        if constexpr (LOSS == SOFTMAX) {
            found = softmax_outcome(top.score, others, z_t, rows.labelled(), weight);
        } else {
            real_t loss = 0, slope = 0;
            for_each(row, t, ignored, [&](int segment, real_t* z) {
#pragma unroll
                for (int e = 0; e < WIDTH; e++) {
                    const real_t m = margin(z[e], z_t);
                    loss += hinge_loss(m);
                    slope += hinge_slope(m);
                }
            });
            sum_block(exchange[1], loss, slope);
            found = hinge_outcome(loss, slope, weight);
        }
        if (lane == 0) report(rows, r, found, top, bad);

        const bool writes = MODE != LOSSES && !bad;
        if (writes)
            for_each(row, t, ignored, [&](int segment, real_t* z) {
#pragma unroll
                for (int e = 0; e < WIDTH; e++) {
                    if (LOSS == SOFTMAX) z[e] = exponential_to_store(z[e] - top.score, stored_t()) * found.factor;
                    else z[e] = hinge_slope(margin(z[e], z_t)) * found.factor;
                }
                row.store(segment, z);
                if (r + 1 < end) fetch(next, segment);
            });
        if (writes && rows.labelled() && lane == owner) row.store_target(t, found.of_target);
        if (r + 1 < end) {  // what the loop above has not asked for
            const int n = next.segments(), done = writes ? row.segments() : 0;
            for (int segment = lane; segment < n; segment += THREADS)
                if (segment >= done) fetch(next, segment);
        }
        commit_copies();
    }
}

#else  // FLAT

__device__ __forceinline__ void row_losses(const Rows& rows) {
    constexpr int MINE = ROWS / THREADS;  // rows of a thread
    struct alignas(PACK * sizeof(stored_t)) Pack {
        stored_t element[PACK];
    };
    static_assert(ROWS % THREADS == 0 && ROWS * COLUMNS % WIDTH == 0);
    __shared__ Segment tile[ROWS * COLUMNS / WIDTH + 1 - ALIGNED];
    const long long begin = (long long)blockIdx.x * ROWS;
    const int n = (int)smaller(rows.n - begin, (long long)ROWS);  // rows
    stored_t* first = rows.scores + begin * COLUMNS;
    const int skip = ALIGNED ? 0 : (int)(reinterpret_cast<unsigned long long>(first) % 16 / sizeof(stored_t));
    const int elements = skip + n * COLUMNS, segments = (elements + WIDTH - 1) / WIDTH;
    Segment* start = reinterpret_cast<Segment*>(first - skip);
    for (int s = threadIdx.x; s < segments; s += THREADS) copy_async16(&tile[s], start + s);
    commit_copies();
    int labels[MINE];
    real_t weights[MINE];
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int row = i * THREADS + threadIdx.x;
        labels[i] = row < n ? rows.label(rows.example(begin + row)) : 0;
        weights[i] = row < n ? rows.weight(begin + row) : (real_t)0;
    }
    wait_copies<0>();
    __syncthreads();

#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int row = i * THREADS + threadIdx.x;
        if (row >= n) break;
        const long long r = begin + row;
        stored_t* mine = reinterpret_cast<stored_t*>(tile) + skip + row * COLUMNS;
        const real_t* bias = BIAS ? rows.bias_of(r, rows.example(r)) : nullptr;
        int t = labels[i];
        const bool bad = rows.bad(t);
        if (bad) t = 0;

        real_t z[COLUMNS], z_t = LOWEST;
        if (t >= 0) z_t = widen(mine[t]) + (BIAS ? bias[t] : (real_t)0);
#pragma unroll
        for (int p = 0; p < COLUMNS / PACK; p++) {
            const Pack pack = reinterpret_cast<const Pack*>(mine)[p];
#pragma unroll
            for (int e = 0; e < PACK; e++) z[p * PACK + e] = widen(pack.element[e]);
        }
        Top top;
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            if (BIAS) z[j] += bias[j];
            if (j == t) z[j] = LOWEST;
            top.see(z[j], j);
        }
        if (rows.labelled()) top.see_target(z_t, t);

        Outcome found;
        if constexpr (LOSS == SOFTMAX) {
            real_t others = 0;
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                z[j] = exponential(z[j] - top.score);
                others += z[j];
            }
            found = softmax_outcome(top.score, others, z_t, rows.labelled(), weights[i]);
        } else {
            real_t loss = 0, slope = 0;
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                const real_t m = margin(z[j], z_t);
                loss += hinge_loss(m);
                z[j] = hinge_slope(m);
                slope += z[j];
            }
            found = hinge_outcome(loss, slope, weights[i]);
        }
        report(rows, r, found, top, bad);
        if (MODE == LOSSES || bad) continue;
#pragma unroll
        for (int p = 0; p < COLUMNS / PACK; p++) {
            Pack pack;
#pragma unroll
            for (int e = 0; e < PACK; e++) narrow(z[p * PACK + e] * found.factor, pack.element[e]);
            reinterpret_cast<Pack*>(mine)[p] = pack;
        }
        if (rows.labelled()) narrow(found.of_target, mine[t]);
    }
    if (MODE == LOSSES) return;

    __syncthreads();
    for (int s = threadIdx.x; s < segments; s += THREADS) {
        const int from = s * WIDTH;
        if (from >= skip && from + WIDTH <= elements) {
            start[s] = tile[s];
        } else {
#pragma unroll
            for (int e = 0; e < WIDTH; e++)
                if (from + e >= skip && from + e < elements) first[from + e - skip] = tile[s].element[e];
        }
    }
}

#endif

// scores: rows of c. bias (K, c): added to the scores first, with BIAS. labels (rows / K): class indices, or null (not in
// mode GRADIENT). weights (rows), or null if all are 1. losses (rows): unweighted losses, or null. best (rows): with
// BEST, the first column with the largest score; without labels, -1 for a row whose softmax is undefined (it has NaN or
// +inf). bad_row: lowered to the first row whose label is outside [0, c), if there is one.
extern "C" __global__ void __launch_bounds__(THREADS)
row_loss(stored_t* __restrict__ scores, const real_t* __restrict__ bias, const int* __restrict__ labels,
         const real_t* __restrict__ weights, long long n_rows, int c, int K, real_t* __restrict__ losses,
         int* __restrict__ best, unsigned long long* __restrict__ bad_row) {
    row_losses({scores, bias, labels, weights, n_rows, c, K, losses, best, bad_row});
}
