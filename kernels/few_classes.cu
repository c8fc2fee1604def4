// Losses and gradients for few columns of scores, with one read of X.
//
//   z_i = x_i W + b        l_i, g_i: as in row_loss.cu        dW = sum_i x_i^T g_i        db = sum_i g_i
//
// A block holds THREADS FEATURES of the features: W and dW for them stay in its registers. It goes through a leaf of
// LEAF rows, ROWS at a time (a tile), which come through a ring in shared memory. Where there are more features, SLICES
// blocks share them, and exchange partial scores:
//   EXCHANGE = ALONE      SLICES is 1
//   EXCHANGE = CLUSTER    they are a cluster, and store to each other's shared memory (sm_90 on)
//   EXCHANGE = FLAGS      through global memory, with a flag of each block for what it has stored (sm_80 on)
// While these are under way, the block computes its partial scores of the next tile. Every sum has an order that the
// shape fixes: features within a thread or a warp, warps, slices; rows within a leaf; leaves along a tree (add_leaves).
//
// SOURCE decides who multiplies (struct Products). Features of float32: each thread those that it has, in float32.
// Features of 8 and 16 bits: tensor cores, whose products are exact, and W and g are sums of 16-bit numbers:
//   uint8, float16    two of float16 (22 bits), after a multiplication by a power of two
//   bfloat16          three of bfloat16 (24 bits)
// A tensor core may truncate where it adds. So it adds up 16 products of each term, at most 48, and these sums are added
// in float32, with rounding.
//
// Macros: SOURCE (kind of X, not FLOAT64), LOSS, CLASSES, MODELS, FEATURES (of a thread: 4, or 8 of float32), ROWS (16
//         for tensor cores), GROUP (float32: rows whose partial scores are in registers at a time: a power of two;
//         divides ROWS, as that divides LEAF), STAGES (2 or more tiles in the ring), THREADS, SLICES, EXCHANGE, LEAF,
//         BLOCKS (that are on a multiprocessor at a time), SHARED (bytes of shared memory, for the host).
// Launch: few_classes: THREADS threads, grid (leaves SLICES), SHARED bytes. add_leaves: 256 threads, grid (ceil((SCORES
//         (d + 1) + 2 MODELS) / 256), ceil(nodes / 16)), again and again, until there is one node.
// Bytes moved: X once. For each leaf, d SCORES numbers of W are read, which the caches hold, and as many of dW written,
//         and read again by add_leaves; FLAGS: SCORES numbers for each row and slice, written and read in the cache.
//         For each row, 4 of its label, 4 of each weight, 8 of its number.
// d features are whole segments of 16 bytes; rows of X are multiples of 16 bytes apart, and begin at such a multiple.

#define ALONE 0
#define CLUSTER 1
#define FLAGS 2

#define WARPS (THREADS / 32)
#define SCORES (CLASSES * MODELS)             // of a row
#define PADDED ((SCORES + 3) / 4 * 4)         // to whole segments of 16 bytes
#define TILE (ROWS * SCORES)                  // scores of a tile
#define LANES (CLASSES <= 2 ? 2 : CLASSES <= 4 ? 4 : CLASSES <= 8 ? 8 : 16)  // that work on a row under one model
#define NO_LABEL (-1)
#define NODES 16  // that a thread of add_leaves adds up

typedef Kind<SOURCE>::stored source_t;

// What a thread copies at once. A warp has 32 FEATURES features.
struct alignas(16) Segment {
    unsigned word[4];
};
constexpr int SEGMENT = 16 / sizeof(source_t);  // features

#if SOURCE == FLOAT32
constexpr int PIECES = FEATURES / SEGMENT;  // segments of a thread, of each row
typedef Segment Stage[ROWS][PIECES][THREADS];
#else
constexpr int SEGMENTS = 32 * FEATURES / SEGMENT;  // of a warp, of each row
typedef Segment Stage[WARPS][SEGMENTS][ROWS + 2];  // two more rows keep both products free of bank conflicts
#endif

struct alignas(16) Shared {
    Stage ring[STAGES];
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

__device__ __forceinline__ void store_flag(unsigned* flag, unsigned value) {
#ifdef __CUDA_ARCH__
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
#else
    emulation::store_flag(flag, value);
#endif
}

__device__ __forceinline__ unsigned load_flag(const unsigned* flag) {
#ifdef __CUDA_ARCH__
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
#else
    return emulation::load_flag(flag);
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

// ---- products of the features of a thread or a warp: its part of z = x W, and dW

// What is at a row's segment, if there is one, to shared memory; else zeros.
__device__ __forceinline__ void copy_segment(Segment* to, const source_t* from, bool present) {
    copy_async<16>(to, from, present ? 16 : 0);
}

#if SOURCE == FLOAT32

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

// Each thread has FEATURES features, and copies them itself, so that no barrier is needed before it reads them.
struct Products {
    int d;                // all features
    int feature[PIECES];  // at which this thread's segments begin; beyond d they are zeros
    float w[SCORES][FEATURES], sums[SCORES][FEATURES];

    __device__ __forceinline__ void begin(const float* W, int n_features, int rank) {
        d = n_features;
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            feature[p] = ((rank * PIECES + p) * THREADS + threadIdx.x) * SEGMENT;
#pragma unroll
            for (int q = 0; q < SCORES; q++) {
                Vector<float> four = {};
                if (feature[p] < d) four = *reinterpret_cast<const Vector<float>*>(W + (long long)q * d + feature[p]);
#pragma unroll
                for (int j = 0; j < SEGMENT; j++) {
                    w[q][p * SEGMENT + j] = four.element[j];
                    sums[q][p * SEGMENT + j] = 0;
                }
            }
        }
    }

    __device__ __forceinline__ void copy(Shared& shared, int tile, int count) const {
        const source_t* starts[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) starts[r] = shared.starts[tile * ROWS + r];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int p = 0; p < PIECES; p++)
                copy_segment(&shared.ring[tile % STAGES][r][p][threadIdx.x], starts[r] + feature[p],
                             tile * ROWS + r < count && feature[p] < d);
    }

    __device__ __forceinline__ void meet() const {}

    __device__ __forceinline__ void read_row(const Shared& shared, int tile, int row, float* x) const {
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            const Segment segment = shared.ring[tile % STAGES][row][p][threadIdx.x];
#pragma unroll
            for (int j = 0; j < SEGMENT; j++) x[p * SEGMENT + j] = __uint_as_float(segment.word[j]);
        }
    }

    // shared.partial = the scores from the features of each warp
    __device__ __forceinline__ void multiply(Shared& shared, int tile) const {
#pragma unroll
        for (int g = 0; g < ROWS; g += GROUP) {
            float z[GROUP * SCORES];
#pragma unroll
            for (int r = 0; r < GROUP; r++) {
                float x[FEATURES];
                read_row(shared, tile, g + (r ^ own_set<GROUP>()), x);
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
            float* to = shared.partial[tile % 2][threadIdx.x / 32];
#pragma unroll
            for (int i = 0; i < halved(GROUP * SCORES, 5); i++)
                if (i < kept) to[first + i] = z[i];
        }
    }

    // sums += x' g, with shared.gradients
    __device__ __forceinline__ void accumulate(const Shared& shared, int tile) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float x[FEATURES];
            read_row(shared, tile, r, x);
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
    }

    // dW of the leaf as (SCORES, d)
    __device__ __forceinline__ void store(float* to) const {
#pragma unroll
        for (int p = 0; p < PIECES; p++)
#pragma unroll
            for (int q = 0; q < SCORES; q++) {
                Vector<float> four;
#pragma unroll
                for (int j = 0; j < SEGMENT; j++) four.element[j] = sums[q][p * SEGMENT + j];
                if (feature[p] < d) *reinterpret_cast<Vector<float>*>(to + (long long)q * d + feature[p]) = four;
            }
    }
};

#else  // tensor cores

typedef Kind<SOURCE == BFLOAT16 ? BFLOAT16 : FLOAT16>::stored term_t;
constexpr int TERMS = SOURCE == BFLOAT16 ? 3 : 2;  // of W and g
constexpr int STEPS = SEGMENT / 4;                 // products with the features of a segment: 4 of each lane at a time
constexpr int HALVES = SCORES > 8 ? 2 : 1;         // of the two halves of a product's 16 rows, those that have scores
constexpr int MINE = SEGMENTS / 8 * SEGMENT;       // features whose dW a lane has, in each of two segments
// The byte b, in 16 bits, is the float16 b / 2^24, a subnormal number, which tensor cores take as others (Fasi et al.,
// doi:10.7717/peerj-cs.330): no conversion is needed.
constexpr int BYTE_EXPONENT = SOURCE == UINT8 ? 24 : 0;
static_assert(ROWS == 16 && SEGMENTS % 8 == 0, "a product has 16 rows, and lanes take 8 segments at a time");

// sum += a b, for a (16, 16) and b (16, 8) of float16 or bfloat16, in the registers of a warp. Lane 4 g + q has
//   of sum  the elements (g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1)
//   of a    in each register two that follow each other in a row, from (g, 2q), (g + 8, 2q), (g, 2q + 8), (g + 8, 2q + 8)
//   of b    in each register two that follow each other in a column, from (2q, g) and (2q + 8, g)
__device__ __forceinline__ void multiply_add(float* sum, const unsigned (&a)[4], unsigned b0, unsigned b1) {
#ifndef __CUDA_ARCH__
    emulation::multiply_add<term_t>(sum, a, b0, b1, __LINE__);
#elif __CUDA_ARCH__ >= 800
#if SOURCE == BFLOAT16
#define MULTIPLY "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
#define MULTIPLY "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
    asm volatile(MULTIPLY "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#undef MULTIPLY
#endif
}

// Two numbers in 16 bits each, the first in the lower half.
__device__ __forceinline__ unsigned packed(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned both;
#if SOURCE == BFLOAT16
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#endif
    return both;
#else
    term_t first, second;
    narrow(low, first);
    narrow(high, second);
    return first.bits | (unsigned)second.bits << 16;
#endif
}

__device__ __forceinline__ float unpacked(unsigned both, int which) {
    return widen(term_t{(unsigned short)(both >> 16 * which)});
}

// Powers of two: `up` brings the largest of some numbers into [2^14, 2^15), which float16 can hold, and `down` undoes that
// and BYTE_EXPONENT. With bytes, numbers from 2^118 on become infinite. bfloat16 has all sizes that float32 has.
struct Scale {
    float up = 1, down = 1;

    // most: of a lane. The four lanes that have numbers of the same scores get the same scale.
    __device__ __forceinline__ explicit Scale(float most) {
        if (TERMS == 3) return;
        most = reduce<4>(most, Maximum(), (float*)nullptr);
        constexpr int LEAST = BYTE_EXPONENT > 1 ? BYTE_EXPONENT : 1;  // for which `down`, too, is normal
        const int exponent = 268 - (int)(__float_as_uint(most) >> 23);
        const int within = exponent < LEAST ? LEAST : exponent > 253 ? 253 : exponent;
        up = __uint_as_float((unsigned)within << 23);
        down = __uint_as_float((unsigned)(254 + BYTE_EXPONENT - within) << 23);
    }
};

// For Scale: what is not finite shows in any case, and must not make zeros of other numbers.
__device__ __forceinline__ float size(float x) {
    return (__float_as_uint(x) & 0x7f800000u) == 0x7f800000u ? 0.0f : fabsf(x);
}

// A warp has 32 FEATURES features, and copies them: lanes read what others have copied, which is why they meet. Both
// products have the classes as rows of their first operand, z' = W' x' and dW' = g' x, with lane 4 g + q as above. What
// the places of an operand stand for can be chosen, if both operands agree, so that lanes read whole segments:
//   z'   row g of the tile, and four features at a time of its segments q, q + 4, ...
//   dW'  the features of the segments g, g + 8, ..., and rows `row_of(q, i)`
struct Products {
    int d;     // all features
    int base;  // the warp's first
    unsigned w[SEGMENTS / 4 * STEPS][TERMS][4];
    float down;  // of w
    float sums[MINE][2 * HALVES];

    __device__ __forceinline__ static int lane() { return threadIdx.x % 32; }
    __device__ __forceinline__ static int g() { return lane() / 4; }
    __device__ __forceinline__ static int q() { return lane() % 4; }
    // four rows of each q, which come to lie in different banks
    __device__ __forceinline__ static int row_of(int i) { return q() % 2 + 4 * (q() / 2) + 2 * (i % 2) + 8 * (i / 2); }
    __device__ __forceinline__ static const Segment& at(const Shared& shared, int tile, int segment, int row) {
        return shared.ring[tile % STAGES][threadIdx.x / 32][segment][row];
    }

    // This lane's weights for a step: score g + 8 half, four features.
    __device__ __forceinline__ Vector<float> load_w(const float* W, int step, int half) const {
        const int feature = base + (step / STEPS * 4 + q()) * SEGMENT + step % STEPS * 4, score = g() + 8 * half;
        Vector<float> four = {};
        if (feature < d && score < SCORES)
            four = *reinterpret_cast<const Vector<float>*>(W + (long long)score * d + feature);
        return four;
    }

    __device__ __forceinline__ void begin(const float* W, int n_features, int rank) {
        d = n_features;
        base = (rank * WARPS + threadIdx.x / 32) * 32 * FEATURES;
        float most = 0;
#pragma unroll
        for (int step = 0; step < SEGMENTS / 4 * STEPS; step++)
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                const Vector<float> four = load_w(W, step, half);
#pragma unroll
                for (int j = 0; j < 4; j++) most = maximum(most, size(four.element[j]));
            }
        const Scale scale(most);
        down = scale.down;
#pragma unroll
        for (int step = 0; step < SEGMENTS / 4 * STEPS; step++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                Vector<float> four = half < HALVES ? load_w(W, step, half) : Vector<float>();  // read again, not kept
#pragma unroll
                for (int j = 0; j < 4; j++) four.element[j] *= scale.up;
                split(four.element, w[step], half);
            }
#pragma unroll
        for (int j = 0; j < MINE; j++)
#pragma unroll
            for (int i = 0; i < 2 * HALVES; i++) sums[j][i] = 0;
    }

    // The terms of four numbers of the score g + 8 half, as registers of a first operand.
    __device__ __forceinline__ static void split(float* x, unsigned (*terms)[4], int half) {
#pragma unroll
        for (int t = 0; t < TERMS; t++)
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                const unsigned both = packed(x[j], x[j + 1]);
                terms[t][half + j] = both;
                x[j] -= unpacked(both, 0);
                x[j + 1] -= unpacked(both, 1);
            }
    }

    // Adds to `sums` the products with all terms, the smallest first.
    __device__ __forceinline__ static void add_products(float* sums, const unsigned (*a)[4], unsigned b0, unsigned b1,
                                                        float factor) {
        float part[4] = {};
#pragma unroll
        for (int t = TERMS - 1; t >= 0; t--) multiply_add(part, a[t], b0, b1);
#pragma unroll
        for (int i = 0; i < 2 * HALVES; i++) sums[i] += part[i] * factor;
    }

    __device__ __forceinline__ void copy(Shared& shared, int tile, int count) const {
        __syncwarp();  // all lanes have read what is overwritten
        // eight lanes that follow each other write to different banks
        const int segment = lane() % 4 + lane() / 8 % (SEGMENTS / 4) * 4;
        const int first = lane() / 4 % 2 + lane() / (2 * SEGMENTS) * 2;
        const int feature = base + segment * SEGMENT;
#pragma unroll
        for (int row = first; row < ROWS; row += 32 / SEGMENTS)
            copy_segment(&shared.ring[tile % STAGES][threadIdx.x / 32][segment][row],
                         shared.starts[tile * ROWS + row] + feature, tile * ROWS + row < count && feature < d);
    }

    __device__ __forceinline__ void meet() const { __syncwarp(); }

    // shared.partial = the scores from the features of each warp
    __device__ __forceinline__ void multiply(Shared& shared, int tile) const {
#pragma unroll 1  // else there are too few registers
        for (int first = 0; first < ROWS; first += 8) {
            float z[2 * HALVES] = {};
#pragma unroll
            for (int h = 0; h < SEGMENTS / 4; h++) {
                const Segment x = at(shared, tile, 4 * h + q(), first + g());
#pragma unroll
                for (int s = 0; s < STEPS; s++) {
#if SOURCE == UINT8
                    const unsigned b0 = __byte_perm(x.word[s], 0, 0x4140), b1 = __byte_perm(x.word[s], 0, 0x4342);
#else
                    const unsigned b0 = x.word[2 * s], b1 = x.word[2 * s + 1];
#endif
                    add_products(z, w[h * STEPS + s], b0, b1, 1.0f);
                }
            }
#pragma unroll
            for (int i = 0; i < 2 * HALVES; i++) {
                const int row = first + 2 * q() + i % 2, score = g() + i / 2 * 8;
                if (score < SCORES) shared.partial[tile % 2][threadIdx.x / 32][row * SCORES + score] = z[i] * down;
            }
        }
    }

    // sums += x' g, with shared.gradients
    __device__ __forceinline__ void accumulate(const Shared& shared, int tile) {
        float own[2][4] = {}, most = 0;
#pragma unroll
        for (int half = 0; half < HALVES; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (g() + 8 * half < SCORES) own[half][i] = shared.gradients[row_of(i)][g() + 8 * half];
                most = maximum(most, size(own[half][i]));
            }
        const Scale scale(most);
        unsigned a[TERMS][4];
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int i = 0; i < 4; i++) own[half][i] *= scale.up;
            split(own[half], a, half);
        }
#pragma unroll
        for (int first = 0; first < SEGMENTS; first += 8) {
            Segment x[4];
#pragma unroll
            for (int i = 0; i < 4; i++) x[i] = at(shared, tile, first + g(), row_of(i));
#pragma unroll
            for (int v = 0; v < 4; v++)
#pragma unroll
                for (int e = 0; e < STEPS; e++) {  // feature e of the word v
                    unsigned b[2];
#pragma unroll
                    for (int pair = 0; pair < 2; pair++) {
                        const unsigned one = x[2 * pair].word[v], other = x[2 * pair + 1].word[v];
#if SOURCE == UINT8
                        const unsigned bytes = __byte_perm(one, other, e < 2 ? 0x5140 : 0x7362);
                        b[pair] = __byte_perm(bytes, 0, e % 2 == 0 ? 0x4140 : 0x4342);
#else
                        b[pair] = __byte_perm(one, other, e == 0 ? 0x5410 : 0x7632);
#endif
                    }
                    add_products(sums[first / 8 * SEGMENT + v * STEPS + e], a, b[0], b[1], scale.down);
                }
        }
    }

    // dW of the leaf as (SCORES, d)
    __device__ __forceinline__ void store(float* to) const {
#pragma unroll
        for (int j = 0; j < MINE; j += 4)
#pragma unroll
            for (int i = 0; i < 2 * HALVES; i++) {
                const int segment = j / SEGMENT * 8 + 2 * q() + i % 2, score = g() + i / 2 * 8;
                const int feature = base + segment * SEGMENT + j % SEGMENT;
                Vector<float> four;
#pragma unroll
                for (int e = 0; e < 4; e++) four.element[e] = sums[j + e][i];
                if (feature < d && score < SCORES)
                    *reinterpret_cast<Vector<float>*>(to + (long long)score * d + feature) = four;
            }
    }
};

#endif

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
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
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
    const int rank = number % SLICES, leaf = number / SLICES;
    const long long first_row = (long long)leaf * LEAF;
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

    Products products;
    products.begin(W, d, rank);
    float sum_of_gradients = 0;
    __syncthreads();  // for the starts of rows

    auto fetch = [&](int tile) {
        if (tile < tiles) products.copy(shared, tile, count);  // count: rows of the leaf
        commit_copies();  // an empty group, too: groups are counted
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
                exchanged[(((long long)leaf * 2 + tile % 2) * SLICES + rank) * TILE + v] = sum;
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
                while (load_flag(flags + 1 + (long long)leaf * SLICES + t) < tile + 1) __nanosleep(40);
            __syncthreads();
        }
    };

    auto score = [&](int tile, int v) {
        if constexpr (EXCHANGE == ALONE) return over_warps(tile, v);
        float sum = 0;
#pragma unroll
        for (int s = 0; s < SLICES; s++) {
            const long long at = (((long long)leaf * 2 + tile % 2) * SLICES + s) * TILE + v;
            sum += EXCHANGE == CLUSTER ? shared.slices[tile % 2][s][v] : load_exchanged(exchanged + at);
        }
        return sum;
    };

    auto losses = [&](int tile) {  // losses and gradients of a tile; LANES threads have a row under one model
#pragma unroll 1  // else there are too few registers
        for (int base = 0; base < ROWS * MODELS * LANES; base += THREADS) {
            const int wanted = (base + t) / LANES, v = smaller(wanted, ROWS * MODELS - 1);
            const bool present = wanted == v;  // threads without a row take part in the reductions, too
            const int r = v / MODELS, k = v % MODELS, i = tile * ROWS + r, j = t % LANES, label = shared.labels[i];
            float z = NEGATIVE_INFINITY;
            if (j < CLASSES) z = score(tile, r * SCORES + k * CLASSES + j) + shared.bias[k * CLASSES + j];
            const int from = t % 32 / LANES * LANES + (label < 0 ? 0 : label);
            const float z_t = __shfl_sync(FULL_WARP, z, from), weight = shared.weights[i * MODELS + k];
            const float top = reduce<LANES>(z, Maximum(), (float*)nullptr);
            float value = 0, gradient;
            if constexpr (LOSS == SOFTMAX) {
                const float power = exponential(z - top), e_t = __shfl_sync(FULL_WARP, power, from);
                const float others = reduce<LANES>(j == label ? 0.0f : power, Sum(), (float*)nullptr);
                const float total = others + e_t, factor = weight / total;
                if (rank == 0) value = softmax_loss(top, z_t, others, total);
                gradient = j == label ? -others * factor : power * factor;
            } else {
                const float m = j == label || j >= CLASSES ? 0.0f : margin(z, z_t), slope = hinge_slope(m);
                if (rank == 0) value = reduce<LANES>(hinge_loss(m), Sum(), (float*)nullptr);
                const float all = reduce<LANES>(slope, Sum(), (float*)nullptr);
                gradient = (j == label ? -all : slope) * weight;
            }
            if (present && j < CLASSES) shared.gradients[r][k * CLASSES + j] = label < 0 ? 0.0f : gradient;
            if (rank > 0) continue;  // the first of the blocks that share the features has the losses
            int place = j < CLASSES && z == top ? j : CLASSES;
            place = reduce<LANES>(place, Smallest(), (int*)nullptr);
            if (present && j == 0) {
                shared.losses[i * MODELS + k] = label < 0 ? NOT_A_NUMBER : value;
                shared.right[i * MODELS + k] = (place < CLASSES ? place : 0) == label ? 1.0f : 0.0f;
            }
        }
    };

#pragma unroll
    for (int s = 0; s < STAGES; s++) fetch(s);
    wait_copies<STAGES - 1>();
    products.meet();
    products.multiply(shared, 0);
    if constexpr (EXCHANGE == CLUSTER) cluster_wait();
    for (int tile = 0; tile < tiles; tile++) {
        __syncthreads();  // partial scores of the tile are there
        give(tile);
        wait_copies<STAGES - 2>();
        products.meet();
        if (tile + 1 < tiles) products.multiply(shared, tile + 1);
        receive(tile);
        losses(tile);
        __syncthreads();  // gradients of the tile are there
        products.accumulate(shared, tile);
        if (rank == 0 && t < SCORES)
            for (int r = 0; r < ROWS; r++) sum_of_gradients += shared.gradients[r][t];
        fetch(tile + STAGES);
    }

    float* to = leaf_sums + leaf * ((long long)d * SCORES + PADDED);
    products.store(to);
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
            leaf_totals[((long long)leaf * MODELS + k) * 2] = loss;
            leaf_totals[((long long)leaf * MODELS + k) * 2 + 1] = correct;
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
