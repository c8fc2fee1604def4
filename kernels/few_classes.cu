// Losses and gradients for few columns of scores, with one read of X.
//
//   z_i = x_i W + b        l_i, g_i: as in row_loss.cu        dW = sum_i x_i^T g_i        db = sum_i g_i
//
// A block holds THREADS FEATURES of the features: W and dW for them stay in its registers. It goes through a leaf of
// LEAF rows, ROWS at a time (a tile), which come through a ring in shared memory, each thread's features by copies of its
// own. Where there are more features, SLICES blocks share them, and exchange partial scores:
//   EXCHANGE = ALONE      SLICES is 1
//   EXCHANGE = CLUSTER    they are a cluster, and store to each other's shared memory (sm_90 on)
//   EXCHANGE = FLAGS      through global memory, with a flag of each block for what it has stored (sm_80 on)
// While these are under way, the block computes its partial scores of the next tile. Every sum has an order that the
// shape fixes: features within a thread, lanes, warps, slices; rows within a leaf; leaves along a tree (add_leaves).
//
// Macros: SOURCE (kind of X, not FLOAT64), LOSS, CLASSES, MODELS, FEATURES (of a thread: 4 or 8), ROWS, GROUP (rows whose
//         partial scores are in registers at a time: a power of two; divides ROWS, as that divides LEAF), STAGES (3 or
//         more tiles in the ring), THREADS, SLICES, EXCHANGE, LEAF, SHARED (bytes of shared memory, for the host).
// Launch: few_classes: THREADS threads, grid (leaves SLICES), SHARED bytes. add_leaves: 256 threads, grid (ceil((SCORES
//         (d + 1) + 2 MODELS) / 256), ceil(nodes / 16)), again and again, until there is one node.
// Bytes moved: X once. For each leaf, d SCORES numbers of W are read, which the caches hold, and as many of dW written,
//         and read again by add_leaves; FLAGS: SCORES numbers for each row and slice, written and read in the cache.
//         For each row, 4 of its label, 4 of each weight, 8 of its number.
// d is a multiple of PIECE; rows of X are multiples of PIECE elements apart, and begin at such a multiple.

#define ALONE 0
#define CLUSTER 1
#define FLAGS 2
#define SOFTMAX 0
#define HINGE 1
#define SQUARED_HINGE 2

#define WARPS (THREADS / 32)
#define SCORES (CLASSES * MODELS)             // of a row
#define PADDED ((SCORES + 3) / 4 * 4)         // to whole segments of 16 bytes
#define TILE (ROWS * SCORES)                  // scores of a tile
#define LANES (CLASSES <= 2 ? 2 : CLASSES <= 4 ? 4 : CLASSES <= 8 ? 8 : 16)  // that work on a row under one model
#define NO_LABEL (-1)
#define NODES 16  // that a thread of add_leaves adds up

typedef Kind<SOURCE>::stored source_t;

constexpr int PIECE = FEATURES * sizeof(source_t) > 16 ? 16 / sizeof(source_t) : FEATURES;  // elements copied at once
constexpr int PIECES = FEATURES / PIECE;

struct alignas(PIECE * sizeof(source_t)) Piece {
#if SOURCE == UINT8
    unsigned word[PIECE / 4];
#else
    source_t element[PIECE];
#endif
};

struct alignas(16) Shared {
    Piece ring[STAGES * ROWS][PIECES][THREADS];
    float gradients[ROWS][PADDED];       // g of a tile
    float partial[2][WARPS][TILE];       // scores from the features of a warp, for two tiles
    float slices[2][SLICES][TILE];       // scores from the features of a block
    const source_t* starts[LEAF];        // of each row
    float weights[LEAF * MODELS], losses[LEAF * MODELS], right[LEAF * MODELS];
    int labels[LEAF];                    // NO_LABEL: there is no such row, or its label is bad
    float bias[PADDED];
    unsigned number[4];                  // of this block
};
static_assert(sizeof(Shared) == SHARED, "the host asks for other shared memory than there is");

// ---- blocks that share the features of a leaf

__device__ __forceinline__ void cluster_arrive() {
#ifndef __CUDA_ARCH__
    emulation::cluster_arrive();
#elif __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait() {
#ifndef __CUDA_ARCH__
    emulation::cluster_wait(__LINE__);
#elif __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Stores to where another block of the cluster has what is `mine` here.
__device__ __forceinline__ void store_in_cluster(float* mine, unsigned rank, float value) {
#ifndef __CUDA_ARCH__
    emulation::store_in_cluster(mine, rank, value);
#elif __CUDA_ARCH__ >= 900
    unsigned at = (unsigned)__cvta_generic_to_shared(mine);
    asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(at) : "r"(rank));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(at), "f"(value) : "memory");
#endif
}

__device__ __forceinline__ void store_flag(unsigned* flag, unsigned value) {
#ifdef __CUDA_ARCH__
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
#else
    *flag = value;
#endif
}

__device__ __forceinline__ unsigned load_flag(const unsigned* flag) {
#ifdef __CUDA_ARCH__
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
#else
    return *flag;
#endif
}

// Past the first-level cache, which has what another block has overwritten.
__device__ __forceinline__ float load_exchanged(const float* from) {
#ifdef __CUDA_ARCH__
    float value;
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(value) : "l"(from) : "memory");
    return value;
#else
    return *from;
#endif
}

// ---- a row's features, and sums over a warp

// This thread's features of a row, which it copied itself: no barrier is needed.
__device__ __forceinline__ void read_row(const Shared& shared, int slot, float* x) {
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        const Piece piece = shared.ring[slot][p][threadIdx.x];
#if SOURCE == UINT8
        // the byte b of a word as 2^23 + b: two ordinary instructions, where there are few units for conversions
#pragma unroll
        for (int e = 0; e < PIECE; e++)
            x[p * PIECE + e] = __uint_as_float(__byte_perm(piece.word[e / 4], 0x4b000000u, 0x7440u + e % 4)) - 8388608.0f;
#else
#pragma unroll
        for (int e = 0; e < PIECE; e++) x[p * PIECE + e] = widen(piece.element[e]);
#endif
    }
}

__device__ constexpr int halved(int count, int times) {
    return times == 0 ? count : halved((count + 1) / 2, times - 1);
}

// Adds each of COUNT values over the lanes of a warp. Each lane gives half of its values away and keeps the sums of the
// others, five times, so that COUNT shuffles are enough; `first` and `kept` say which sums it ends with, at the start of
// `values`. While there is more than one of SETS of values left, a lane has that first which it keeps: see own_set.
template <int COUNT, int SETS, int DISTANCE>
__device__ __forceinline__ void add_over_warp(float* values, int& first, int& kept) {
    if constexpr (DISTANCE > 0) {
        constexpr int HALF = (COUNT + 1) / 2;
        const bool upper = SETS == 1 && threadIdx.x & DISTANCE;
#pragma unroll
        for (int i = 0; i < HALF; i++) {
            const float low = values[i], high = i + HALF < COUNT ? values[i + HALF] : 0.0f;
            const float given = upper ? low : high;
            values[i] = (upper ? high : low) + __shfl_xor_sync(FULL_WARP, given, DISTANCE);
        }
        if (SETS == 1) {
            first += upper ? HALF : 0;
            kept = upper ? kept - HALF : smaller(kept, HALF);
        }
        add_over_warp<HALF, (SETS + 1) / 2, DISTANCE / 2>(values, first, kept);
    }
}

// The set, of SETS, whose sums this lane ends with. It has the set own_set ^ s at the place s.
template <int SETS> __device__ __forceinline__ int own_set() { return threadIdx.x % 32 * SETS / 32; }

// ---- the kernel

// X: rows of d elements, stride elements apart. rows (n): the rows used, or null for the first n. W (SCORES, d). bias
// (SCORES), or null. labels (n). weights (n, MODELS), or null if all are 1. leaf_sums (leaves, d SCORES + PADDED): dW as
// (SCORES, d), and db. leaf_totals (leaves, MODELS, 2): losses, and weights of rows whose largest score is their label's.
// With FLAGS: exchanged (leaves, 2, SLICES, TILE), and flags (1 + leaves SLICES), zeros. bad_row: lowered to the first
// row i MODELS whose label is outside [0, CLASSES), if there is one; its loss is NaN and its gradient 0.
#if EXCHANGE == CLUSTER && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900)
extern "C" __cluster_dims__(SLICES, 1, 1) __global__ void few_classes(
    const source_t* __restrict__, long long, const long long* __restrict__, const float* __restrict__,
    const float* __restrict__, const int* __restrict__, const float* __restrict__, long long, int, float* __restrict__,
    double* __restrict__, float*, unsigned*, unsigned long long* __restrict__);
#endif
extern "C" __global__ void __launch_bounds__(THREADS, 256 / THREADS)
few_classes(const source_t* __restrict__ X, long long stride, const long long* __restrict__ rows,
            const float* __restrict__ W, const float* __restrict__ bias, const int* __restrict__ labels,
            const float* __restrict__ weights, long long n, int d, float* __restrict__ leaf_sums,
            double* __restrict__ leaf_totals, float* exchanged, unsigned* flags,
            unsigned long long* __restrict__ bad_row) {
    extern __shared__ Shared memory[];
    Shared& shared = memory[0];
    const int t = threadIdx.x;

    // With FLAGS a block takes its number when it starts, so that only blocks with lower numbers have started before. A
    // block waits only for those of its own leaf. Of all leaves with a block that runs, only the last can lack some; once
    // the leaves before it have ended, there is room for these. So one of the leaves can always go on.
    unsigned number = blockIdx.x;
    if constexpr (EXCHANGE == FLAGS) {
        if (t == 0) shared.number[0] = atomicAdd(flags, 1u);
        __syncthreads();
        number = shared.number[0];
    }
    const int rank = number % SLICES;
    const long long leaf = number / SLICES, first_row = leaf * LEAF;
    const int count = (int)smaller((long long)LEAF, n - first_row), tiles = (count + ROWS - 1) / ROWS;
    if constexpr (EXCHANGE == CLUSTER) cluster_arrive();  // waited for before the first store to another block

    for (int i = t; i < LEAF; i += THREADS) {
        const bool present = i < count;
        const long long at = first_row + i;
        const int label = present ? labels[at] : NO_LABEL;
        const bool bad = label < 0 || label >= CLASSES;
        if (present && bad && rank == 0) atomicMin(bad_row, (unsigned long long)(at * MODELS));
        shared.labels[i] = bad ? NO_LABEL : label;
        shared.starts[i] = X + (present ? (rows == nullptr ? at : rows[at]) * stride : 0);
        for (int k = 0; k < MODELS; k++)
            shared.weights[i * MODELS + k] = present && weights != nullptr ? weights[at * MODELS + k] : 1.0f;
    }
    for (int q = t; q < SCORES; q += THREADS) shared.bias[q] = bias == nullptr ? 0.0f : bias[q];

    // where this thread's pieces begin among the features; beyond d they are zeros
    int feature[PIECES];
    float w[SCORES][FEATURES], sums[SCORES][FEATURES], sum_of_gradients = 0;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        feature[p] = ((rank * PIECES + p) * THREADS + t) * PIECE;
#pragma unroll
        for (int q = 0; q < SCORES; q++)
#pragma unroll
            for (int e = 0; e < PIECE; e += 4) {
                Vector<float> four = {};
                if (feature[p] < d)
                    four = *reinterpret_cast<const Vector<float>*>(W + (long long)q * d + feature[p] + e);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    w[q][p * PIECE + e + j] = four.element[j];
                    sums[q][p * PIECE + e + j] = 0;
                }
            }
    }
    __syncthreads();  // for the starts of rows

    auto fetch = [&](int tile) {
        if (tile < tiles) {
            constexpr int BYTES = PIECE * sizeof(source_t);
            const source_t* starts[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) starts[r] = shared.starts[tile * ROWS + r] + feature[0];
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int p = 0; p < PIECES; p++) {
                    const bool present = tile * ROWS + r < count && feature[p] < d;  // else nothing is read
                    copy_async<BYTES>(&shared.ring[tile % STAGES * ROWS + r][p][t],
                                      starts[r] + (feature[p] - feature[0]), present ? BYTES : 0);
                }
        }
        commit_copies();  // an empty group, too: groups are counted
    };

    auto scores = [&](int tile) {  // partial scores from the features of each warp
#pragma unroll
        for (int g = 0; g < ROWS; g += GROUP) {
            float z[GROUP * SCORES];
#pragma unroll
            for (int r = 0; r < GROUP; r++) {
                float x[FEATURES];
                read_row(shared, tile % STAGES * ROWS + g + (r ^ own_set<GROUP>()), x);
#pragma unroll
                for (int q = 0; q < SCORES; q++) {
                    float sum = 0;
#pragma unroll
                    for (int f = 0; f < FEATURES; f++) sum += x[f] * w[q][f];
                    z[r * SCORES + q] = sum;
                }
            }
            int first = (g + own_set<GROUP>()) * SCORES, kept = SCORES;
            add_over_warp<GROUP * SCORES, GROUP, 16>(z, first, kept);
            float* to = shared.partial[tile % 2][t / 32];
#pragma unroll
            for (int i = 0; i < halved(GROUP * SCORES, 5); i++)
                if (i < kept) to[first + i] = z[i];
        }
    };

    auto over_warps = [&](int tile, int v) {
        float sum = shared.partial[tile % 2][0][v];
#pragma unroll
        for (int warp = 1; warp < WARPS; warp++) sum += shared.partial[tile % 2][warp][v];
        return sum;
    };

    // Buffers for two tiles are enough: whoever stores scores of tile + 2 has waited for those of tile + 1, which every
    // block stores after it has used those of the tile.
    auto give = [&](int tile) {
#pragma unroll
        for (int base = 0; EXCHANGE != ALONE && base < TILE; base += THREADS) {
            const int v = base + t;
            if (v >= TILE) break;
            const float sum = over_warps(tile, v);
            if constexpr (EXCHANGE == FLAGS) {
                exchanged[((leaf * 2 + tile % 2) * SLICES + rank) * TILE + v] = sum;
            } else {
#pragma unroll
                for (int s = 0; s < SLICES; s++) store_in_cluster(&shared.slices[tile % 2][rank][v], s, sum);
            }
        }
        if constexpr (EXCHANGE == CLUSTER) cluster_arrive();
        if constexpr (EXCHANGE == FLAGS) {
            __syncthreads();
            if (t == 0) store_flag(flags + 1 + number, tile + 1);
        }
    };

    auto receive = [&](int tile) {
        if constexpr (EXCHANGE == CLUSTER) cluster_wait();
        if constexpr (EXCHANGE == FLAGS) {
            if (t < SLICES)
                while (load_flag(flags + 1 + leaf * SLICES + t) < tile + 1) __nanosleep(40);
            __syncthreads();
        }
    };

    auto score = [&](int tile, int v) {
        if constexpr (EXCHANGE == ALONE) return over_warps(tile, v);
        float sum = 0;
#pragma unroll
        for (int s = 0; s < SLICES; s++)
            sum += EXCHANGE == CLUSTER ? shared.slices[tile % 2][s][v]
                                       : load_exchanged(exchanged + ((leaf * 2 + tile % 2) * SLICES + s) * TILE + v);
        return sum;
    };

    auto losses = [&](int tile) {  // losses and gradients of a tile; LANES threads have a row under one model
#pragma unroll
        for (int base = 0; base < ROWS * MODELS * LANES; base += THREADS) {
            const int wanted = (base + t) / LANES, v = smaller(wanted, ROWS * MODELS - 1);
            const bool present = wanted == v;  // threads without a row take part in the reductions, too
            const int r = v / MODELS, k = v % MODELS, i = tile * ROWS + r, j = t % LANES, label = shared.labels[i];
            float z = NEGATIVE_INFINITY;
            if (j < CLASSES) z = score(tile, r * SCORES + k * CLASSES + j) + shared.bias[k * CLASSES + j];
            const int from = t % 32 / LANES * LANES + (label < 0 ? 0 : label);
            const float z_t = __shfl_sync(FULL_WARP, z, from), weight = shared.weights[i * MODELS + k];
            const float top = reduce<LANES>(z, Maximum(), (float*)nullptr);
            int place = j < CLASSES && z == top ? j : CLASSES;
            place = reduce<LANES>(place, Smallest(), (int*)nullptr);

            float value, gradient;
            if constexpr (LOSS == SOFTMAX) {
                const float power = exponential(z - top), e_t = __shfl_sync(FULL_WARP, power, from);
                const float others = reduce<LANES>(j == label ? 0.0f : power, Sum(), (float*)nullptr);
                const float total = others + e_t, factor = weight / total;
                // z_t - top is 0, or NaN where both are infinite
                value = z_t == top ? logarithm_1p(others) + (z_t - top) : (top - z_t) + logarithm(total);
                gradient = j == label ? -others * factor : power * factor;
            } else {
                float margin = z - z_t + 1;
                if (margin <= 0 || j == label || j >= CLASSES) margin = 0;  // NaN stays NaN
                const float slope = LOSS == HINGE ? (margin > 0 ? 1.0f : margin) : 2 * margin;
                value = reduce<LANES>(LOSS == HINGE ? margin : margin * margin, Sum(), (float*)nullptr);
                const float all = reduce<LANES>(slope, Sum(), (float*)nullptr);
                gradient = (j == label ? -all : slope) * weight;
            }
            if (present && j < CLASSES) shared.gradients[r][k * CLASSES + j] = label < 0 ? 0.0f : gradient;
            if (present && j == 0 && rank == 0) {
                shared.losses[i * MODELS + k] = label < 0 ? NOT_A_NUMBER : value;
                shared.right[i * MODELS + k] = (place < CLASSES ? place : 0) == label ? 1.0f : 0.0f;
            }
        }
    };

    auto accumulate = [&](int tile) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float x[FEATURES];
            read_row(shared, tile % STAGES * ROWS + r, x);
#pragma unroll
            for (int q = 0; q < SCORES; q += 4) {
                const Vector<float> four = *reinterpret_cast<const Vector<float>*>(&shared.gradients[r][q]);
#pragma unroll
                for (int j = 0; j < 4; j++)
                    if (q + j < SCORES) {
#pragma unroll
                        for (int f = 0; f < FEATURES; f++) sums[q + j][f] += x[f] * four.element[j];
                    }
            }
        }
        if (rank == 0 && t < SCORES)
            for (int r = 0; r < ROWS; r++) sum_of_gradients += shared.gradients[r][t];
    };

#pragma unroll
    for (int s = 0; s < STAGES; s++) fetch(s);
    wait_copies<STAGES - 1>();
    scores(0);
    if constexpr (EXCHANGE == CLUSTER) cluster_wait();
    for (int tile = 0; tile < tiles; tile++) {
        __syncthreads();  // partial scores of the tile are there
        give(tile);
        wait_copies<STAGES - 2>();
        if (tile + 1 < tiles) scores(tile + 1);
        receive(tile);
        losses(tile);
        __syncthreads();  // gradients of the tile are there
        accumulate(tile);
        fetch(tile + STAGES);
    }

    float* to = leaf_sums + leaf * ((long long)d * SCORES + PADDED);
#pragma unroll
    for (int p = 0; p < PIECES; p++)
#pragma unroll
        for (int q = 0; q < SCORES; q++)
#pragma unroll
            for (int e = 0; e < PIECE; e += 4) {
                Vector<float> four;
#pragma unroll
                for (int j = 0; j < 4; j++) four.element[j] = sums[q][p * PIECE + e + j];
                if (feature[p] < d) *reinterpret_cast<Vector<float>*>(to + (long long)q * d + feature[p] + e) = four;
            }
    if (rank > 0) return;
    if (t < SCORES) to[(long long)d * SCORES + t] = sum_of_gradients;
    for (int k = t / 32; k < MODELS; k += WARPS) {  // in float64: a warp sums the rows of a model
        double loss = 0, correct = 0;
        for (int i = t % 32; i < count; i += 32) {
            const double weight = shared.weights[i * MODELS + k];
            loss += weight * shared.losses[i * MODELS + k];
            correct += weight * shared.right[i * MODELS + k];
        }
        loss = reduce<32>(loss, Sum(), (double*)nullptr);
        correct = reduce<32>(correct, Sum(), (double*)nullptr);
        if (t % 32 == 0) {
            leaf_totals[(leaf * MODELS + k) * 2] = loss;
            leaf_totals[(leaf * MODELS + k) * 2 + 1] = correct;
        }
    }
}

// Adds up to NODES numbers that are `apart` elements from each other, along the tree of gpusoftmax/tree.py: the second to
// the first, and so on upwards; what has no right sibling moves up unchanged.
template <class T> __device__ __forceinline__ T add_nodes(const T* first, long long apart, int count) {
    T node[NODES];
#pragma unroll
    for (int i = 0; i < NODES; i++) node[i] = i < count ? first[i * apart] : T(0);
#pragma unroll
    for (int s = 1; s < NODES; s *= 2)
#pragma unroll
        for (int i = 0; i + s < NODES; i += 2 * s)
            if (i + s < count) node[i] += node[i + s];
    return node[0];
}

// leaf_sums, leaf_totals: see above. The nodes so far are at every step-th leaf of n_leaves; the sum of NODES of them takes
// the place of the first, or, with sums (d + 1, SCORES) and totals (MODELS, 2), goes there: dW as (d, SCORES), and db.
extern "C" __global__ void __launch_bounds__(256)
add_leaves(float* leaf_sums, double* leaf_totals, int n_leaves, int step, int d, float* __restrict__ sums,
           double* __restrict__ totals) {
    const int at = blockIdx.x * 256 + threadIdx.x, numbers = (d + 1) * SCORES;
    const long long first = (long long)blockIdx.y * NODES * step;
    const int count = (int)smaller((long long)NODES, (n_leaves - first + step - 1) / step);
    if (at < numbers) {
        const long long pitch = (long long)d * SCORES + PADDED;
        float* node = leaf_sums + first * pitch + at;
        const float sum = add_nodes(node, step * pitch, count);
        if (sums == nullptr) *node = sum;
        else sums[at < d * SCORES ? at % d * SCORES + at / d : at] = sum;
    } else if (at < numbers + 2 * MODELS) {
        const int k = at - numbers;
        double* node = leaf_totals + first * (2 * MODELS) + k;
        const double sum = add_nodes(node, (long long)step * (2 * MODELS), count);
        *(totals == nullptr ? node : totals + k) = sum;
    }
}
