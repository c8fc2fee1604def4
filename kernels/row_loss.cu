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
//   REGISTERS  GROUP threads have a row, ITEMS segments of 16 bytes each; with SPREAD, as many in each of SPREAD blocks
//   STREAMED   a block has a row that is longer than that, and reads it twice
//
// A segment is 16 bytes of memory at a multiple of 16 bytes; all loads and stores of scores are segments. A row that does
// not begin or end at such a multiple shares its first and last segment with its neighbours: they are loaded whole, the
// elements that are not the row's are masked, and stored one by one. So the first segment of the first row and the last
// segment of the last row must lie within the allocation, as they do in CuPy, PyTorch and JAX, which round sizes up. All
// loads of a row are queued before anything waits for one of them.
//
// With REGISTERS, a block has every PERIOD-th row of one model, so that its rows all begin at the same place of a segment.
// It loads the model's bias once, into shared memory and moved to that place, where threads read it in whole vectors. If a
// row is too long for a block, SPREAD blocks have consecutive parts of it. They are a cluster (sm_90 on), and store what
// the others have to know into their shared memory.
//
// Macros: SCORE (kind), LOSS (0 softmax, 1 hinge, 2 squared hinge), MODE (GRADIENT, LOSSES, PROBABILITIES), HOLD, GROUP
//         (threads a row), ITEMS, THREADS (a block), ROWS (a block), COLUMNS and PACK (FLAT: the classes, and how many
//         of a row's elements a thread takes at a time), ALIGNED (1: all rows, or FLAT: the first, begin at a multiple
//         of 16 bytes, and so does the bias), PERIOD (REGISTERS: 1, or if rows are not ALIGNED, the scores of a segment),
//         SPREAD (blocks of a row: 1, or more with REGISTERS if ROWS is 1), BIAS (1: there is one), BEST (1: also find
//         each arg max).
// Without labels there is no target: PROBABILITIES replaces the scores by probabilities, LOSSES only finds the arg max.
// Launch: THREADS threads, grid (ceil(rows / ROWS)); REGISTERS: (ceil(rows / (ROWS PERIOD K)) PERIOD K SPREAD), and dynamic
//         shared memory: KEPT bytes, and with BIAS the numbers of GROUP ITEMS segments, and four vectors if scores have 16
//         bits.
// Bytes moved per row: c scores read and c written (LOSSES: none; STREAMED: c read again, once more for a hinge), and up
//                      to 16 bytes more (float64: 24).

#define GRADIENT 0
#define LOSSES 1
#define PROBABILITIES 2
#define FLAT 0
#define REGISTERS 1
#define STREAMED 2
#define NOWHERE 0xffffffffu
#define KEPT 2048  // buckets.py: SHARED_KEPT
#define LOWEST ((real_t)NEGATIVE_INFINITY)

typedef Kind<SCORE>::stored stored_t;
typedef Kind<SCORE>::computed real_t;
typedef Vector<stored_t> Segment;
typedef Vector<real_t> Part;  // of a segment's numbers, for arithmetic: they are one vector, or two for 16-bit scores
constexpr int WIDTH = Segment::SIZE, PARTS = WIDTH / Part::SIZE;
// From a part of the bias to the next one of its segment. With REGISTERS, segments' first parts come before their second
// ones, an odd multiple of four vectors apart, so that neighbouring threads use different banks of shared memory.
constexpr int NEXT_PART = HOLD == REGISTERS ? ITEMS * GROUP | 4 : 1;

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
    found.loss = softmax_loss(top, z_t, others, total);
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
    const real_t* bias;  // of its first column; REGISTERS: in shared memory, of the block's first segment
    int held;            // REGISTERS: the block's first segment
    int skip;            // elements of the first segment that come before the row
    int c;

    __device__ __forceinline__ Row(const Rows& rows, long long r) {
        stored_t* first = rows.scores + r * rows.c;
        skip = ALIGNED ? 0 : (int)(reinterpret_cast<unsigned long long>(first) % 16 / sizeof(stored_t));
        start = first - skip;
        bias = nullptr;
        held = 0;
        c = rows.c;
    }
    __device__ __forceinline__ int segments() const { return (skip + c + WIDTH - 1) / WIDTH; }
    __device__ __forceinline__ bool has(int segment) const { return segment * WIDTH < skip + c; }
    // All of the segment is the row's.
    __device__ __forceinline__ bool whole(int segment) const {
        const int j = segment * WIDTH - skip;
        return ALIGNED ? j < c : (unsigned)j <= (unsigned)(c - WIDTH);
    }
    __device__ __forceinline__ int segment_of(int column) const { return (skip + column) / WIDTH; }
    __device__ __forceinline__ const Segment* at(int segment) const {
        return reinterpret_cast<const Segment*>(start) + segment;
    }

    // z: the scores of a segment that was loaded, with the bias; -inf where the row has no column. inside: all of the
    // segment is known to be the row's.
    __device__ __forceinline__ void scores(int segment, const Segment& loaded, real_t* z, bool inside = false) const {
        const int j = segment * WIDTH - skip;
        widen(loaded, z);
        if (BIAS) {
            if (HOLD == REGISTERS) add_bias(reinterpret_cast<const Part*>(bias) + segment - held, z);
            else if (ALIGNED) add_bias(reinterpret_cast<const Part*>(bias + (has(segment) ? j : 0)), z);
            else {
#pragma unroll
                for (int e = 0; e < WIDTH; e++) z[e] += bias[(unsigned)(j + e) < (unsigned)c ? j + e : 0];
            }
        }
        if (inside || whole(segment)) return;
#pragma unroll
        for (int e = 0; e < WIDTH; e++)
            if ((unsigned)(j + e) >= (unsigned)c) z[e] = LOWEST;
    }

    // If the target t is in the segment, its score becomes z_t, and -inf takes its place.
    __device__ __forceinline__ void take_target(int segment, int t, real_t* z, real_t& z_t) const {
        const int at = t - (segment * WIDTH - skip);
        if ((unsigned)at >= (unsigned)WIDTH || t < 0) return;
#pragma unroll
        for (int e = 0; e < WIDTH; e++)
            if (e == at) {
                z_t = z[e];
                z[e] = LOWEST;
            }
    }

    __device__ __forceinline__ void add_bias(const Part* of_segment, real_t* z) const {
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            const Part part = of_segment[p * NEXT_PART];
#pragma unroll
            for (int e = 0; e < Part::SIZE; e++) z[p * Part::SIZE + e] += part.element[e];
        }
    }

    __device__ __forceinline__ void store(int segment, const real_t* z, bool inside = false) const {
        const Segment stored = narrowed<stored_t>(z);
        Segment* to = reinterpret_cast<Segment*>(start) + segment;
        if (inside || whole(segment)) {
            *to = stored;
        } else if (!ALIGNED) {
            const int j = segment * WIDTH - skip;
#pragma unroll
            for (int e = 0; e < WIDTH; e++)
                if ((unsigned)(j + e) < (unsigned)c) to->element[e] = stored.element[e];
        }
    }

    __device__ __forceinline__ void store_target(int t, real_t of_target) const { narrow(of_target, start[skip + t]); }
};

#if HOLD != FLAT

// ---- what the threads of a row tell each other

constexpr int IN_WARP = GROUP < 32 ? GROUP : 32, WARPS = GROUP < 32 ? 1 : GROUP / 32;  // of a row
constexpr int LANES = WARPS > 16 ? 32 : WARPS > 8 ? 16 : WARPS > 4 ? 8 : WARPS > 2 ? 4 : 2;  // a power of two for WARPS

// What they put there for each other, if they are more than a warp; each place is written once.
template <class T> struct Shared {
    T of_warp[WARPS], of_block[SPREAD];
};
struct Exchange {
    Shared<real_t> top, sum, second;
    Shared<unsigned> place;
    real_t of_target;  // score
};

// Stores a value that all threads of a block have to where each block of the row finds it.
template <class T> __device__ __forceinline__ void give_to_blocks(Shared<T>& shared, T value) {
    if (threadIdx.x < SPREAD) store_in_cluster(&shared.of_block[blockIdx.x % SPREAD], threadIdx.x, value);
}

__device__ __forceinline__ void meet_blocks() {
    cluster_arrive();
    cluster_wait();
}

// The sum over the threads of a row, which all get.
__device__ __forceinline__ real_t sum_row(real_t value, Shared<real_t>& shared) {
    value = reduce<IN_WARP>(value, Sum(), (real_t*)nullptr);
    if constexpr (WARPS > 1) {
        if (threadIdx.x % 32 == 0) shared.of_warp[threadIdx.x % GROUP / 32] = value;
        __syncthreads();
        const int place = threadIdx.x % LANES;
        value = reduce<LANES>(place < WARPS ? shared.of_warp[place] : (real_t)0, Sum(), (real_t*)nullptr);
    }
    if constexpr (SPREAD > 1) {
        give_to_blocks(shared, value);
        meet_blocks();
        value = shared.of_block[0];
#pragma unroll
        for (int b = 1; b < SPREAD; b++) value += shared.of_block[b];
    }
    return value;
}

// The top of a row, of which all threads of a block have the top of their part; one of the row has the target's score z_t.
__device__ __forceinline__ Top top_of_blocks(Top top, real_t z_t, bool owner, Exchange& exchange) {
    cluster_wait();  // all blocks have started
    give_to_blocks(exchange.top, top.score);
    if (BEST) give_to_blocks(exchange.place, top.place);
    if (owner) {
#pragma unroll
        for (int b = 0; b < SPREAD; b++) store_in_cluster(&exchange.of_target, b, z_t);
    }
    meet_blocks();
    Top all;
#pragma unroll
    for (int b = 0; b < SPREAD; b++) all.see(exchange.top.of_block[b], BEST ? (int)exchange.place.of_block[b] : 0);
    return all;
}

// The top of a row, and the score z_t of the target, which the thread whose `lane` is `owner` has; all get them.
__device__ __forceinline__ Top top_of_row(Top top, real_t& z_t, int lane, int owner, Exchange& exchange) {
    top = top.over<IN_WARP>();
    if constexpr (WARPS == 1) {
        z_t = __shfl_sync(FULL_WARP, z_t, threadIdx.x % 32 / GROUP * GROUP + owner);
    } else {
        if (threadIdx.x % 32 == 0) {
            exchange.top.of_warp[threadIdx.x % GROUP / 32] = top.score;
            exchange.place.of_warp[threadIdx.x % GROUP / 32] = top.place;
        }
        if (SPREAD == 1 && lane == owner) exchange.of_target = z_t;
        __syncthreads();
        const int place = smaller((int)threadIdx.x % LANES, WARPS - 1);
        top.score = exchange.top.of_warp[place];
        top.place = exchange.place.of_warp[place];
        top = top.over<LANES>();
        if constexpr (SPREAD > 1) top = top_of_blocks(top, z_t, lane == owner, exchange);
        z_t = exchange.of_target;
    }
    return top;
}

#endif

#if HOLD == REGISTERS

// The first WHOLE segments of a thread lie within the row, except for the row's very first one, because buckets.py takes
// as few ITEMS as will do. Nothing has to be masked there. If a row has several blocks, the last may
// have less of it.
constexpr int WHOLE = SPREAD > 1 ? 0 : ITEMS - 1 - !ALIGNED;
__device__ __forceinline__ constexpr bool inside(int s) { return s < WHOLE && (ALIGNED || s > 0); }

constexpr int HELD = ITEMS * GROUP;  // segments of a block
static_assert(SPREAD == 1 || ROWS == 1);

// The lane, as below, of the thread that has a segment.
__device__ __forceinline__ int owner_of(int segment) {
    return SPREAD == 1 ? segment % GROUP : segment / HELD * HELD + segment % GROUP;
}

// What a thread moves of the bias: parts, or single numbers.
constexpr int NUMBERS = HELD * WIDTH, AT_ONCE = ALIGNED ? Part::SIZE : 1;
constexpr int PIECES = (NUMBERS / AT_ONCE + THREADS - 1) / THREADS;
struct alignas(AT_ONCE * sizeof(real_t)) Piece {
    real_t element[AT_ONCE];
};

__device__ __forceinline__ void row_losses(const Rows& rows) {
    // blocks are numbered by model, then by the place in a segment, so that neighbours have rows that are neighbours
    const unsigned rank = blockIdx.x % SPREAD, number = blockIdx.x / SPREAD;
    const unsigned of_models = rows.K == 1 ? number : number / (unsigned)rows.K;
    const unsigned model = number - of_models * rows.K;
    const long long first = (long long)(of_models / PERIOD) * (ROWS * PERIOD) + of_models % PERIOD;
    const long long i = first + threadIdx.x / GROUP * PERIOD, wanted = i * rows.K + model;
    if (ROWS == 1 && wanted >= rows.n) return;
    const bool present = ROWS == 1 || wanted < rows.n;  // threads without a row take part in the reductions, too
    if (SPREAD > 1) cluster_arrive();  // waited for before the first store to another block
    const long long r = present ? wanted : 0;
    Row row(rows, r);
    row.held = rank * HELD;
    const int lane = row.held + threadIdx.x % GROUP;  // a thread has the segments lane, lane + GROUP, ...
    int t = rows.label(present ? i : 0);
    const real_t weight = rows.weight(r);

    Segment loaded[ITEMS];
#pragma unroll
    for (int s = 0; s < ITEMS; s++)
        if (present && (s < WHOLE || row.has(s * GROUP + lane))) loaded[s] = load_segment(row.at(s * GROUP + lane));
    Piece pieces[PIECES];
    if (BIAS) {
        const real_t* bias = rows.bias + (long long)model * rows.c;
        const int before = Row(rows, first * rows.K + model).skip - row.held * WIDTH;
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            const int j = (p * THREADS + threadIdx.x) * AT_ONCE - before;
            pieces[p] = {};
            if ((unsigned)j < (unsigned)rows.c) pieces[p] = *reinterpret_cast<const Piece*>(bias + j);
        }
    }
    const bool bad = rows.bad(t);
    if (bad) t = 0;
    extern __shared__ Part memory[];
    if (BIAS) {
        Part* parts = memory + KEPT / sizeof(Part);
        row.bias = reinterpret_cast<real_t*>(parts);
        // a thread's numbers are whole segments apart
        const int part = threadIdx.x * AT_ONCE / Part::SIZE, place = part % PARTS * NEXT_PART + part / PARTS;
        real_t* to = reinterpret_cast<real_t*>(parts + place) + threadIdx.x * AT_ONCE % Part::SIZE;
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            if (PIECES * THREADS * AT_ONCE == NUMBERS || (p * THREADS + threadIdx.x) * AT_ONCE < NUMBERS)
                *reinterpret_cast<Piece*>(to + p * THREADS * AT_ONCE / PARTS) = pieces[p];
        }
        __syncthreads();
    }

    real_t z[ITEMS][WIDTH], z_t = LOWEST;
    Top top;
#pragma unroll
    for (int s = 0; s < ITEMS; s++) row.scores(s * GROUP + lane, loaded[s], z[s], inside(s));
#pragma unroll
    for (int s = 0; s < ITEMS; s++) {
        const int segment = s * GROUP + lane;
        row.take_target(segment, t, z[s], z_t);
#pragma unroll
        for (int e = 0; e < WIDTH; e++) top.see(z[s][e], segment * WIDTH - row.skip + e);
    }
    static_assert(WARPS == 1 || sizeof(Exchange) * ROWS <= KEPT);
    Exchange& exchange = reinterpret_cast<Exchange*>(memory)[WARPS == 1 ? 0 : threadIdx.x / GROUP];
    const int owner = t < 0 ? 0 : owner_of(row.segment_of(t));
    top = top_of_row(top, z_t, lane, owner, exchange);
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
        others = sum_row(others, exchange.sum);
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
        loss = sum_row(loss, exchange.sum);
        slope = sum_row(slope, exchange.second);
        found = hinge_outcome(loss, slope, weight);
    }

    if (!present) return;
    if (lane == 0) report(rows, r, found, top, bad);
    if (MODE == LOSSES || bad) return;
#pragma unroll
    for (int s = 0; s < ITEMS; s++) {
#pragma unroll
        for (int e = 0; e < WIDTH; e++) z[s][e] *= found.factor;
        row.store(s * GROUP + lane, z[s], inside(s));
    }
    if (rows.labelled() && lane == owner) row.store_target(t, found.of_target);
}

#elif HOLD == STREAMED

// Segments that a thread has loaded before it waits for the first. For exp of more doubles there are not enough registers.
constexpr int AHEAD = WIDTH > 2 ? 2 : 1;

__device__ __forceinline__ void row_losses(const Rows& rows) {
    __shared__ Exchange exchange;
    const long long r = blockIdx.x, i = rows.example(r);
    const int lane = threadIdx.x;
    Row row(rows, r);
    row.bias = BIAS ? rows.bias_of(r, i) : nullptr;
    int t = rows.label(i);
    const real_t weight = rows.weight(r);
    const bool bad = rows.bad(t);
    if (bad) t = 0;

    // calls f(segment, scores) for each of the thread's segments; z_t is set by the thread that has the target
    auto for_each = [&](real_t& z_t, auto f) {
        const int n = row.segments();
        for (int first = lane; first < n; first += AHEAD * THREADS) {
            Segment loaded[AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                const int segment = first + a * THREADS;
                if (segment < n) loaded[a] = load_segment(row.at(segment));
            }
            real_t z[AHEAD][WIDTH];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) row.scores(first + a * THREADS, loaded[a], z[a]);
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                const int segment = first + a * THREADS;
                if (segment >= n) break;
                row.take_target(segment, t, z[a], z_t);
                f(segment, z[a]);
            }
        }
    };

    // a thread's sum of exponentials is relative to its own top, and then brought to the top of all
    real_t z_t = LOWEST, others = 0, ignored;
    Top mine;
    for_each(z_t, [&](int segment, real_t* z) {
        const real_t before = mine.score;
#pragma unroll
        for (int e = 0; e < WIDTH; e++) mine.see(z[e], segment * WIDTH - row.skip + e);
        if (LOSS != SOFTMAX) return;
        if (mine.score > before) others *= exponential(before - mine.score);  // the first time this is exp(-inf) = 0
        const real_t base = mine.score == LOWEST ? (real_t)0 : mine.score;
#pragma unroll
        for (int e = 0; e < WIDTH; e++) others += exponential(z[e] - base);
    });
    Top top = top_of_row(mine, z_t, lane, t < 0 ? 0 : row.segment_of(t) % THREADS, exchange);
    if (rows.labelled()) top.see_target(z_t, t);

    Outcome found;
    if constexpr (LOSS == SOFTMAX) {
        if (mine.score != top.score) others *= exponential(mine.score - top.score);
        others = sum_row(others, exchange.sum);
        found = softmax_outcome(top.score, others, z_t, rows.labelled(), weight);
    } else {
        real_t loss = 0, slope = 0;
        for_each(ignored, [&](int segment, real_t* z) {
#pragma unroll
            for (int e = 0; e < WIDTH; e++) {
                const real_t m = margin(z[e], z_t);
                loss += hinge_loss(m);
                slope += hinge_slope(m);
            }
        });
        loss = sum_row(loss, exchange.sum);
        slope = sum_row(slope, exchange.second);
        found = hinge_outcome(loss, slope, weight);
    }
    if (lane == 0) report(rows, r, found, top, bad);
    if (MODE == LOSSES || bad) return;

    for_each(ignored, [&](int segment, real_t* z) {
#pragma unroll
        for (int e = 0; e < WIDTH; e++) {
            if (LOSS == SOFTMAX) z[e] = exponential_to_store(z[e] - top.score, stored_t()) * found.factor;
            else z[e] = hinge_slope(margin(z[e], z_t)) * found.factor;
        }
        row.store(segment, z);
    });
    if (rows.labelled() && lane == row.segment_of(t) % THREADS) row.store_target(t, found.of_target);
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

// Registers are limited so that two blocks of a cluster fit on a multiprocessor. Otherwise the compiler chooses: told that
// one block is enough, it would use more.
#if SPREAD > 1
#define BOUNDS THREADS, 2
#else
#define BOUNDS THREADS
#endif

// scores: rows of c. bias (K, c): added to the scores first, with BIAS. labels (rows / K): class indices, or null (not in
// mode GRADIENT). weights (rows), or null if all are 1. losses (rows): unweighted losses, or null. best (rows): with
// BEST, the first column with the largest score; without labels, -1 for a row whose softmax is undefined (it has NaN or
// +inf). bad_row: lowered to the first row whose label is outside [0, c), if there is one.
#if SPREAD > 1 && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900)
extern "C" __cluster_dims__(SPREAD, 1, 1) __global__ void row_loss(
    stored_t* __restrict__, const real_t* __restrict__, const int* __restrict__, const real_t* __restrict__, long long, int,
    int, real_t* __restrict__, int* __restrict__, unsigned long long* __restrict__);
#endif
extern "C" __global__ void __launch_bounds__(BOUNDS)
row_loss(stored_t* __restrict__ scores, const real_t* __restrict__ bias, const int* __restrict__ labels,
         const real_t* __restrict__ weights, long long n_rows, int c, int K, real_t* __restrict__ losses,
         int* __restrict__ best, unsigned long long* __restrict__ bad_row) {
    row_losses({scores, bias, labels, weights, n_rows, c, K, losses, best, bad_row});
}
