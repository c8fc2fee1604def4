// Sums row losses for each model, in float64 and in a fixed order.
//
//   losses_k += sum_i s_ik l_ik,    correct_k += sum_i s_ik [best_ik = t_i]
//
// There are two stages: sum_rows adds up ROWS_A_BLOCK rows of one model per block, and add_partials adds these sums to
// the totals so far, so that chunks of rows are added in the order of the stream.
//
// Launch: sum_rows 256 threads, grid (ceil(n / ROWS_A_BLOCK), K); add_partials 256 threads, grid (K).
// Bytes moved: 4 to 16 per row and model.

#define THREADS 256
#define ROWS_A_BLOCK 4096

typedef Kind<SCORE>::computed real_t;

__device__ __forceinline__ void sum_block(double& a, double& b) {
    __shared__ double scratch[32];
    a = reduce<THREADS>(a, Sum(), scratch);
    b = reduce<THREADS>(b, Sum(), scratch);
}

// row_losses (n K). best (n K) and labels (n), or null if correct rows need not be counted. weights (n K), or null.
// partials (blocks, K, 2).
extern "C" __global__ void __launch_bounds__(THREADS)
sum_rows(const real_t* __restrict__ row_losses, const int* __restrict__ best, const int* __restrict__ labels,
         const real_t* __restrict__ weights, long long n, double* __restrict__ partials) {
    const int k = blockIdx.y, K = gridDim.y;
    const long long first = (long long)blockIdx.x * ROWS_A_BLOCK;
    const long long last = smaller(n, first + ROWS_A_BLOCK);
    double loss = 0, correct = 0;
    for (long long i = first + threadIdx.x; i < last; i += THREADS) {
        const long long r = i * K + k;
        const double weight = weights == nullptr ? 1.0 : (double)weights[r];
        loss += weight * (double)row_losses[r];
        if (best != nullptr && best[r] == labels[i]) correct += weight;
    }
    sum_block(loss, correct);
    if (threadIdx.x == 0) {
        double* out = partials + ((long long)blockIdx.x * K + k) * 2;
        out[0] = loss;
        out[1] = correct;
    }
}

// totals (K, 2): loss and correct, to which the sums are added.
extern "C" __global__ void __launch_bounds__(THREADS)
add_partials(const double* __restrict__ partials, int n_blocks, double* __restrict__ totals) {
    const int k = blockIdx.x, K = gridDim.x;
    double loss = 0, correct = 0;
    for (int b = threadIdx.x; b < n_blocks; b += THREADS) {
        const double* in = partials + ((long long)b * K + k) * 2;
        loss += in[0];
        correct += in[1];
    }
    sum_block(loss, correct);
    if (threadIdx.x == 0) {
        totals[2 * k] += loss;
        totals[2 * k + 1] += correct;
    }
}
