// Shows whether this machine can compile and run a kernel:   out[i] = i
//
// Launch: 32 threads, grid (1). Bytes moved: 128.

extern "C" __global__ void __launch_bounds__(32) probe(int* __restrict__ out) { out[threadIdx.x] = (int)threadIdx.x; }
