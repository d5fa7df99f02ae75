/* What CUDA and OpenCL call the same things, in one vocabulary. */
#if defined(HOST_DIALECT) /* tests bring their own */
#elif defined(__CUDACC__)
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define KERNEL_OF_FEW extern "C" __global__ void __launch_bounds__(THREADS, SLICES > 1 ? 1 : 2) /* groups on a multiprocessor */
#define DEVICE static __device__ __forceinline__
#define CONSTANT __constant__ const
#define GLOBAL
#define LOCAL
#define SHARED(type, name, count) __shared__ type name[count]
#define TILE_MEMORY(name, count) extern __shared__ real name[]
#define BARRIER __syncthreads()
#define THREAD ((int)threadIdx.x)
#define GROUP_X ((int)blockIdx.x)
#define GROUP_Y ((int)blockIdx.y)
#define ADD_ONE(counter) atomicAdd(counter, 1u)
#define LOOK(counter) (*(volatile uint32_t *)(counter))
#define FENCE __threadfence()
#else
#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
typedef uint uint32_t;
typedef int int32_t;
typedef ulong uint64_t;
typedef long int64_t;
#if TILED
#define KERNEL __kernel __attribute__((reqd_work_group_size(THREADS, 1, 1))) void
#define THREAD ((int)get_local_id(0))
#else /* a square, whose rows a processor takes as vectors */
#define KERNEL __kernel __attribute__((reqd_work_group_size(SIDE, SIDE, 1))) void
#define THREAD ((int)(get_local_id(1) * SIDE + get_local_id(0)))
#define THREAD_ROW ((int)get_local_id(1))
#define THREAD_COLUMN ((int)get_local_id(0))
#endif
#define KERNEL_OF_FEW KERNEL
#define DEVICE static inline
#define CONSTANT __constant const
#define GLOBAL __global
#define LOCAL __local
#define SHARED(type, name, count) __local type name[count]
#define TILE_MEMORY(name, count) __local real name[count]
#define BARRIER barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)
#define GROUP_X ((int)get_group_id(0))
#define GROUP_Y ((int)get_group_id(1))
#endif
#if STAGED /* a group works on a copy of the parameters that is its own */
#define HELD LOCAL
#else
#define HELD GLOBAL
#endif
#define SIDE (BLOCK / 4) /* of a product: BLOCK x BLOCK results a group, 4 x 4 a thread, THREADS = SIDE x SIDE */
#ifndef THREAD_ROW
#define THREAD_ROW (THREAD / SIDE)
#define THREAD_COLUMN (THREAD % SIDE)
#endif
#define UNROLL _Pragma("unroll")
#define LEAST(a, b) ((a) < (b) ? (a) : (b))
#define JOINED_(a, b) a##b
#define JOINED(a, b) JOINED_(a, b)
