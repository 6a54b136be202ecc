/*
 * gpu_register - a file's memory, registered with a GPU.
 *
 *     gpu_register FILE-ON-PMFS
 *
 * FILE is sealed full and at least 64 KiB long; its first bytes are overwritten.  The program
 *   1. maps FILE by libpmfs and registers the mapping with CUDA (cudaHostRegister): a long-term
 * pin, as of RDMA;
 *   2. copies FILE to the GPU and back, and compares;
 *   3. lets the GPU store to FILE (a copy from its memory), and compares what read(2) on the mount
 *      gives;
 *   4. tries to truncate FILE meanwhile, which must fail with ETXTBSY, and compares again;
 *   5. says how fast copies to the GPU are: from FILE, from memory of CUDA's own that is
 * page-locked, from ordinary memory, and by read(2) and ordinary memory. Exit status 0: all of that
 * happened.  The medium must be device-DAX or memory, not an image file, whose pages are a disk
 * filesystem's.
 *
 * Needs CUDA's toolkit: cc gpu_register.c -lpmfs -lcudart
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <cuda_runtime_api.h>
#include <errno.h>
#include <fcntl.h>
#include <pmfs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ALIGN ((size_t)4096)
#define LENGTH_MIN (16 * ALIGN)
#define ROUNDS 11

static int fail(const char *what, const char *why) {
    fprintf(stderr, "gpu_register: %s: %s\n", what, why);
    return 1;
}

static int fail_gpu(const char *what, cudaError_t error) {
    return fail(what, cudaGetErrorString(error));
}

static void fill(char *bytes, size_t length, unsigned seed) {
    for (size_t i = 0; i < length; i++) bytes[i] = (char)(i * 7 + (i >> 12) * 13 + seed);
}

/* Reads the file in the ordinary way, in requests of 1 MiB as cp(1) does; 0 or errno. */
static int read_file(int fd, char *to, size_t length) {
    for (size_t at = 0; at < length;) {
        const size_t want = length - at < (1 << 20) ? length - at : 1 << 20;
        const ssize_t got = pread(fd, to + at, want, (off_t)at);
        if (got <= 0) return got < 0 ? errno : EIO;
        at += (size_t)got;
    }
    return 0;
}

/* What is copied, and between what. */
struct exchange {
    char *mapped; /* the file, registered */
    char *bytes;  /* ordinary memory */
    void *device; /* the GPU's */
    size_t length;
    int file;
};

static int compare(const struct exchange *x, const char *want, const char *what) {
    char *const got = malloc(x->length);
    if (got == NULL) return fail("memory", strerror(ENOMEM));
    const int error = read_file(x->file, got, x->length);
    int failed = 0;
    if (error != 0)
        failed = fail("read(2) on the mount", strerror(error));
    else if (memcmp(got, want, x->length) != 0)
        failed = fail(what, "read(2) on the mount gives other bytes");
    free(got);
    return failed;
}

/* Steps 2 to 4. */
static int copy_and_compare(const struct exchange *x) {
    fill(x->mapped, x->length, 1);
    cudaError_t error = cudaMemcpy(x->device, x->mapped, x->length, cudaMemcpyHostToDevice);
    if (error == cudaSuccess)
        error = cudaMemcpy(x->bytes, x->device, x->length, cudaMemcpyDeviceToHost);
    if (error != cudaSuccess) return fail_gpu("copying to the GPU and back", error);
    if (memcmp(x->bytes, x->mapped, x->length) != 0)
        return fail("copying to the GPU and back", "other bytes came back");
    printf("  file -> GPU -> memory  %zu bytes, the same\n", x->length);

    fill(x->bytes, x->length, 101);
    error = cudaMemcpy(x->device, x->bytes, x->length, cudaMemcpyHostToDevice);
    memset(x->mapped, 0, x->length);
    if (error == cudaSuccess)
        error = cudaMemcpy(x->mapped, x->device, x->length, cudaMemcpyDeviceToHost);
    if (error != cudaSuccess) return fail_gpu("copying from the GPU into the file", error);
    if (compare(x, x->bytes, "copying from the GPU into the file") != 0) return 1;
    printf("  GPU -> file            %zu bytes; read(2) on the mount agrees\n", x->length);

    if (ftruncate(x->file, 0) == 0 || errno != ETXTBSY)
        return fail("truncating the sealed file", "it did not fail with ETXTBSY");
    memset(x->mapped, 0, x->length);
    error = cudaMemcpy(x->mapped, x->device, x->length, cudaMemcpyDeviceToHost);
    if (error != cudaSuccess) return fail_gpu("copying after the truncation", error);
    if (compare(x, x->bytes, "copying after the truncation") != 0) return 1;
    printf("  truncating it meanwhile: ETXTBSY, and the GPU still stores into the file\n");
    return 0;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int by_size(const void *a, const void *b) {
    const double left = *(const double *)a, right = *(const double *)b;
    return left < right ? -1 : left > right;
}

/* GB a second of copies to the GPU from there, median; with `read` after reading the file to there.
 */
static int show_rate(const struct exchange *x, const char *what, char *from, bool read) {
    double took[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        const double begin = seconds();
        if (read && read_file(x->file, from, x->length) != 0)
            return fail("read(2) on the mount", strerror(EIO));
        const cudaError_t error = cudaMemcpy(x->device, from, x->length, cudaMemcpyHostToDevice);
        if (error != cudaSuccess) return fail_gpu(what, error);
        took[i] = seconds() - begin;
    }
    qsort(took, ROUNDS, sizeof *took, by_size);
    printf("  to the GPU, %-34s %6.1f GB/s\n", what, (double)x->length / took[ROUNDS / 2] / 1e9);
    return 0;
}

/* Step 5. */
static int show_rates(const struct exchange *x) {
    void *locked;
    const cudaError_t error = cudaMallocHost(&locked, x->length);
    if (error != cudaSuccess) return fail_gpu("page-locked memory", error);
    memset(locked, 1, x->length);
    const int failed = show_rate(x, "from the file:", x->mapped, false) != 0 ||
                       show_rate(x, "from page-locked memory:", locked, false) != 0 ||
                       show_rate(x, "from ordinary memory:", x->bytes, false) != 0 ||
                       show_rate(x, "by read(2) and ordinary memory:", x->bytes, true) != 0;
    cudaFreeHost(locked);
    return failed;
}

static int run(int file, struct pmfs_map *map) {
    struct exchange x = {
        .mapped = pmfs_map_address(map), .length = pmfs_map_length(map), .file = file};
    const double begin = seconds();
    cudaError_t error = cudaHostRegister(x.mapped, x.length, cudaHostRegisterMapped);
    if (error != cudaSuccess) return fail_gpu("registering the mapping", error);
    printf("  pmfs mapping of %zu bytes: registered in %.0f ms\n", x.length,
           (seconds() - begin) * 1e3);
    int failed = 0;
    x.bytes = malloc(x.length);
    error = cudaMalloc(&x.device, x.length);
    if (x.bytes == NULL)
        failed = fail("memory", strerror(ENOMEM));
    else if (error != cudaSuccess)
        failed = fail_gpu("memory of the GPU", error);
    else
        failed = copy_and_compare(&x) != 0 || show_rates(&x) != 0;
    cudaFree(x.device);
    free(x.bytes);
    /* (Before the mapping ends: a grant knows mappings, not registrations.) */
    error = cudaHostUnregister(x.mapped);
    return error == cudaSuccess ? failed : fail_gpu("taking the registration back", error);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: gpu_register FILE-ON-PMFS\n");
        return 2;
    }
    const int file = pmfs_open(argv[1], O_RDWR, 0);
    if (file < 0) return fail(argv[1], strerror(-file));
    struct pmfs_map *map;
    const int result = pmfs_map(file, 0, 0, PROT_READ | PROT_WRITE, 0, &map);
    if (result != 0) return fail("mapping the file", strerror(-result));
    int failed = 0;
    if (pmfs_map_length(map) < LENGTH_MIN)
        failed = fail("the file is too small", "64 KiB at least");
    else
        failed = run(file, map);
    pmfs_unmap(map);
    close(file);
    return failed;
}
