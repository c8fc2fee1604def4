// One minibatch step of SGD for few classes, in four launches that a CUDA graph can repeat.
//
//   score_parts     part_s[i] = sum_{p in part s} x_ip W_p / scale_p
//   row_gradients   z_i = sum_s part_s[i] + b - sum_p (shift_p / scale_p) W_p,   g_i, loss_i as in row_loss.cu
//   update          dW_p = (a_k sum_i x_ip g_i - shift_p db) / scale_p + l2_k r_p W_p,   db = a_k sum_i g_i (+ l2_k b)
//                   v = momentum v + dW,   W -= rate (v, or dW + momentum v with Nesterov, or dW without momentum)
//   add_totals      totals += m (value, loss, accuracy);   step += 1
//
// a_k = n / (m S_k). The batch of m rows is given by row numbers. The number of the step is read from memory, and with
// it the place in the list of row numbers and the learning rate: so the arguments are those of all steps of a stretch.
// Each number is written by one thread, which adds in a fixed order.
//
// Macros: SOURCE (kind of X), LOSS, CLASSES (of a model), COLUMNS (K times as many), WIDTH (features that are loaded at
//         once: as many as 16 bytes hold if rows begin at a multiple of 16 bytes, else 1), SHIFTED, SCALED, NESTEROV,
//         FIT_INTERCEPT, PENALIZE_INTERCEPT (1: so).
// Launch: score_parts (ceil(d / 32), ceil(m / 256)) blocks of 256 threads; row_gradients (ceil(m / 32)) of 256; update
//         (ceil(d / 32)) of 256; add_totals 1 of 32.
// Bytes moved: X's m rows twice, the second time from the L2 cache; 4 for each row, part and column, written and read,
//              and as many of the gradients read; W and the velocity read and written, and W read before that.
//
// Arguments of several kernels, all on the device:
//   m           rows of this batch
//   X           rows of d features, `stride` elements apart
//   rows        row numbers of all batches, `batch` of them each
//   W, b        (d, columns), (columns): changed in place, as velocity_W and velocity_b of these shapes, or null
//   shift, scale, factors (d), strengths (K): in float64; factors r may be null
//   sums        (K): S, what sums over n rows are divided by
//   parts       (parts, columns, m), offsets (parts, columns): what the parts of the features add to scores and shifts
//   gradients   (m, columns), sums_b (blocks of rows, columns): gradients with respect to the scores, and their sums
//   losses      (blocks of rows, K, 2): sums of losses and of correct weights
//   norms       (parts, K): sum_p r_p ||W_pk||^2
//   step        (1): the number of the step

#define THREADS 256
#define PART 32        // features of a block
#define BLOCK_ROWS 32  // of row_gradients
#define GROUPS (THREADS / PART)
// Each thread's part of shared memory is an odd number of words long, so that one element of all 32 lanes lies in 32 banks.
#define APART (CLASSES | 1)  // scores of a row under one model
#define PITCH (COLUMNS | 1)
#define MODELS (COLUMNS / CLASSES)

typedef Kind<SOURCE>::stored source_t;

__device__ __forceinline__ double row_scale(const double* sums, int k, long long n, int m) {
    return 1.0 / sums[k] * ((double)n / m);
}

// WIDTH features, which are loaded at once. An ordinary read of a Vector is compiled to one load per feature.
#if WIDTH > 1
typedef Vector<source_t> Features;
__device__ __forceinline__ Features load(const source_t* from) {
    return load_segment(reinterpret_cast<const Features*>(from));
}
#else
struct Features {
    source_t element[1];
};
__device__ __forceinline__ Features load(const source_t* from) { return {{*from}}; }
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
score_parts(int m, const source_t* __restrict__ X, long long stride, const long long* __restrict__ rows, int batch,
            int d, const float* __restrict__ W, const double* __restrict__ shift, const double* __restrict__ scale,
            const int* __restrict__ step, float* __restrict__ parts, double* __restrict__ offsets) {
    __shared__ float w[PART * COLUMNS];
    const int part = blockIdx.x, begin = part * PART, i = blockIdx.y * THREADS + threadIdx.x;
    for (int e = threadIdx.x; e < PART * COLUMNS; e += THREADS) {
        const int p = begin + e / COLUMNS;
        w[e] = p >= d ? 0.0f : SCALED ? (float)((double)W[(long long)p * COLUMNS + e % COLUMNS] / scale[p])
                                        : W[(long long)p * COLUMNS + e % COLUMNS];
    }
    if (SHIFTED && blockIdx.y == 0 && threadIdx.x < COLUMNS) {
        double offset = 0;
        for (int p = begin; p < begin + PART && p < d; p++)
            offset += (SCALED ? shift[p] / scale[p] : shift[p]) * (double)W[(long long)p * COLUMNS + threadIdx.x];
        offsets[part * COLUMNS + threadIdx.x] = offset;
    }
    __syncthreads();
    if (i >= m) return;
    const source_t* row = X + rows[(long long)*step * batch + i] * stride;
    Features loaded[PART / WIDTH];
#pragma unroll
    for (int s = 0; s < PART / WIDTH; s++) {
        loaded[s] = {};
        if (begin + s * WIDTH < d) loaded[s] = load(row + begin + s * WIDTH);  // d is a multiple of WIDTH
    }
    float z[COLUMNS];
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) z[j] = 0;
#pragma unroll
    for (int f = 0; f < PART; f++) {
        const float x = widen(loaded[f / WIDTH].element[f % WIDTH]);
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) z[j] += x * w[f * COLUMNS + j];
    }
    float* out = parts + (long long)part * COLUMNS * m + i;
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) out[(long long)j * m] = z[j];
}

// Replaces the scores z of a row by the gradient of its loss; returns the loss. best: the first largest score.
__device__ __forceinline__ float row_gradient(float* z, int t, int& best) {
    float top = z[0], loss, others = 0;
    best = 0;
    for (int j = 1; j < CLASSES; j++)
        if (z[j] > top) {
            top = z[j];
            best = j;
        }
    const float z_t = z[t];
    if (LOSS == SOFTMAX) {
        for (int j = 0; j < CLASSES; j++)
            if (j != t) others += z[j] = exponential(z[j] - top);
        const float total = others + exponential(z_t - top);
        loss = softmax_loss(top, z_t, others, total);
        for (int j = 0; j < CLASSES; j++) z[j] /= total;
        z[t] = -others / total;
    } else {
        loss = 0;
        for (int j = 0; j < CLASSES; j++) {
            if (j == t) continue;
            const float m = margin(z[j], z_t);
            loss += hinge_loss(m);
            z[j] = hinge_slope(m);
            others += z[j];
        }
        z[t] = -others;
    }
    return loss;
}

// Where column j of a row has its score in shared memory.
__device__ __forceinline__ int place_of(int row, int j) { return (row * MODELS + j / CLASSES) * APART + j % CLASSES; }

extern "C" __global__ void __launch_bounds__(THREADS)
row_gradients(int m, const long long* __restrict__ rows, int batch, int d, const int* __restrict__ labels,
              const float* __restrict__ weights, const float* __restrict__ b, const int* __restrict__ step,
              const float* __restrict__ parts, const double* __restrict__ offsets, float* __restrict__ gradients,
              float* __restrict__ sums_b, double* __restrict__ losses) {
    __shared__ float z[BLOCK_ROWS * MODELS * APART], intercepts[COLUMNS];
    __shared__ double row_losses[BLOCK_ROWS * MODELS * 2];
    const int n_parts = (d + PART - 1) / PART, begin = blockIdx.x * BLOCK_ROWS;
    const int mine = smaller(BLOCK_ROWS, m - begin);
    if (threadIdx.x < COLUMNS) {
        double offset = 0;
        if (SHIFTED)
            for (int part = 0; part < n_parts; part++) offset += offsets[part * COLUMNS + threadIdx.x];
        intercepts[threadIdx.x] = (float)((double)b[threadIdx.x] - offset);
    }
    __syncthreads();
    for (int e = threadIdx.x; e < BLOCK_ROWS * COLUMNS; e += THREADS) {
        const int i = e % BLOCK_ROWS, j = e / BLOCK_ROWS;
        if (i >= mine) continue;
        float sum = 0;
#pragma unroll 8
        for (int part = 0; part < n_parts; part++) sum += parts[((long long)part * COLUMNS + j) * m + begin + i];
        z[place_of(i, j)] = sum + intercepts[j];
    }
    __syncthreads();
    for (int r = threadIdx.x; r < mine * MODELS; r += THREADS) {
        const long long row = rows[(long long)*step * batch + begin + r / MODELS];
        const double weight = weights == nullptr ? 1.0 : (double)weights[row * MODELS + r % MODELS];
        const int t = labels[row];
        int best;
        float* scores = z + r * APART;
        row_losses[2 * r] = weight * (double)row_gradient(scores, t, best);
        row_losses[2 * r + 1] = best == t ? weight : 0.0;
        for (int j = 0; j < CLASSES; j++) scores[j] *= (float)weight;
    }
    __syncthreads();
    for (int e = threadIdx.x; e < mine * COLUMNS; e += THREADS)
        gradients[(long long)begin * COLUMNS + e] = z[place_of(e / COLUMNS, e % COLUMNS)];
    if (threadIdx.x < COLUMNS) {
        float sum = 0;
        for (int i = 0; i < mine; i++) sum += z[place_of(i, threadIdx.x)];
        sums_b[blockIdx.x * COLUMNS + threadIdx.x] = sum;
    } else if (threadIdx.x >= 64 && threadIdx.x < 64 + 2 * MODELS) {  // other warps than those of the sums above
        const int k = (threadIdx.x - 64) / 2, which = threadIdx.x % 2;
        double sum = 0;
        for (int i = 0; i < mine; i++) sum += row_losses[2 * (i * MODELS + k) + which];
        losses[(blockIdx.x * MODELS + k) * 2 + which] = sum;
    }
}

// Takes a step of a parameter against its gradient.
__device__ __forceinline__ void step_against(float gradient, float rate, float momentum, float* parameter,
                                             float* velocity) {
    float direction = gradient;
    if (velocity != nullptr) {
        const float v = *velocity * momentum + gradient;
        *velocity = v;
        direction = NESTEROV ? gradient + momentum * v : v;
    }
    *parameter -= rate * direction;
}

extern "C" __global__ void __launch_bounds__(THREADS)
update(int m, const source_t* __restrict__ X, long long stride, const long long* __restrict__ rows, int batch, int d,
       long long n, const float* __restrict__ gradients, const float* __restrict__ sums_b,
       const double* __restrict__ shift, const double* __restrict__ scale, const double* __restrict__ strengths,
       const double* __restrict__ factors, const double* __restrict__ sums, const float* __restrict__ rates,
       const float* __restrict__ momentum, const int* __restrict__ step, float* __restrict__ W, float* __restrict__ b,
       float* __restrict__ velocity_W, float* __restrict__ velocity_b, double* __restrict__ norms) {
    constexpr int TILE = 8 * GROUPS;  // rows, of which a thread has 8
    static_assert(TILE <= THREADS);
    __shared__ float shared[THREADS * PITCH], db[COLUMNS];  // gradients of a tile, and then each thread's dW
    __shared__ double scratch[32];
    const int begin = blockIdx.x * PART, p = begin + threadIdx.x % PART, group = threadIdx.x / PART;
    const float* now = rates + (long long)*step * MODELS;
    const int blocks = (m + BLOCK_ROWS - 1) / BLOCK_ROWS;
    if (threadIdx.x < COLUMNS) {
        float sum = 0;
        for (int block = 0; block < blocks; block++) sum += sums_b[block * COLUMNS + threadIdx.x];
        db[threadIdx.x] = sum * (float)row_scale(sums, threadIdx.x / CLASSES, n, m);
    }
    float dW[COLUMNS];
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) dW[j] = 0;
    for (int first = 0; first < m; first += TILE) {
        const int here = smaller(TILE, m - first);
        __syncthreads();  // the tile before has been used
        for (int e = threadIdx.x; e < here * COLUMNS; e += THREADS) shared[e] = gradients[first * COLUMNS + e];
        float x[8];
#pragma unroll
        for (int a = 0; a < 8; a++) {
            const int i = first + a * GROUPS + group;
            x[a] = i < m && p < d ? widen(X[rows[(long long)*step * batch + i] * stride + p]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int a = 0; a < 8; a++) {
            const int i = a * GROUPS + group;
            if (i >= here) break;
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) dW[j] += x[a] * shared[i * COLUMNS + j];
        }
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) shared[threadIdx.x * PITCH + j] = dW[j];
    __syncthreads();

    double squares[MODELS];
#pragma unroll
    for (int k = 0; k < MODELS; k++) squares[k] = 0;
    for (int e = threadIdx.x; e < PART * COLUMNS; e += THREADS) {
        const int feature = begin + e / COLUMNS, j = e % COLUMNS, k = j / CLASSES;
        if (feature >= d) break;
        float sum = 0;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) sum += shared[(g * PART + e / COLUMNS) * PITCH + j];
        float* w = W + (long long)feature * COLUMNS + j;
        const float r = factors == nullptr ? 1.0f : (float)factors[feature];
        float gradient = sum * (float)row_scale(sums, k, n, m);
        if (SHIFTED) gradient -= (float)shift[feature] * db[j];
        if (SCALED) gradient /= (float)scale[feature];
        gradient += (float)strengths[k] * (r * *w);
#pragma unroll
        for (int other = 0; other < MODELS; other++)
            if (other == k) squares[other] += (double)(*w * (r * *w));
        float* velocity = velocity_W == nullptr ? nullptr : velocity_W + (long long)feature * COLUMNS + j;
        step_against(gradient, now[k], velocity == nullptr ? 0.0f : momentum[k], w, velocity);
    }
#pragma unroll
    for (int k = 0; k < MODELS; k++) {
        double norm = reduce<THREADS>(squares[k], Sum(), scratch);
        if (threadIdx.x == 0) {
            if (PENALIZE_INTERCEPT && blockIdx.x == 0)
                for (int j = k * CLASSES; j < (k + 1) * CLASSES; j++) norm += (double)(b[j] * b[j]);
            norms[blockIdx.x * MODELS + k] = norm;
        }
    }
    __syncthreads();
    if (blockIdx.x == 0 && threadIdx.x < COLUMNS && FIT_INTERCEPT) {
        const int j = threadIdx.x, k = j / CLASSES;
        const float gradient = PENALIZE_INTERCEPT ? db[j] + (float)strengths[k] * b[j] : db[j];
        float* velocity = velocity_b == nullptr ? nullptr : velocity_b + j;
        step_against(gradient, now[k], velocity == nullptr ? 0.0f : momentum[k], b + j, velocity);
    }
}

extern "C" __global__ void __launch_bounds__(32)
add_totals(int m, int d, long long n, const double* __restrict__ losses, const double* __restrict__ norms,
           const double* __restrict__ strengths, const double* __restrict__ sums, int* __restrict__ step,
           double* __restrict__ totals, double* __restrict__ first) {
    const int n_parts = (d + PART - 1) / PART, blocks = (m + BLOCK_ROWS - 1) / BLOCK_ROWS, now = *step;
    for (int k = threadIdx.x; k < MODELS; k += 32) {
        double loss = 0, correct = 0, norm = 0;
        for (int block = 0; block < blocks; block++) {
            loss += losses[(block * MODELS + k) * 2];
            correct += losses[(block * MODELS + k) * 2 + 1];
        }
        for (int part = 0; part < n_parts; part++) norm += norms[part * MODELS + k];
        loss *= row_scale(sums, k, n, m);
        const double value = loss + 0.5 * strengths[k] * norm;
        if (now == 0) first[k] = value;
        totals[k] += m * value;
        totals[MODELS + k] += m * loss;
        totals[2 * MODELS + k] += m * (correct * row_scale(sums, k, n, m));
    }
    __syncwarp();
    if (threadIdx.x == 0) *step = now + 1;
}
