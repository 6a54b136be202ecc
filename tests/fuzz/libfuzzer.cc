// The fuzzers as programs (clang, libFuzzer): FUZZ is the function, SEEDS where it begins.  The
// seeds are mutated like any other input: they are given as a corpus, which this writes first.
//
//     CC=clang CXX=clang++ meson setup build-fuzz -Db_lundef=false -Doptimization=1 \
//         -Db_sanitize=address,undefined -Dcpp_args=-fsanitize=fuzzer-no-link
//     ninja -C build-fuzz tests/fuzz_messages tests/fuzz_queue tests/fuzz_requests
//     mkdir corpus && build-fuzz/tests/fuzz_requests corpus
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>

#ifdef MUTATE
#include "fuzz/requests.h"
#else
#include "fuzz/virtio.h"
#endif

// NOLINTNEXTLINE(readability-non-const-parameter): libFuzzer declares it
extern "C" int LLVMFuzzerInitialize(int *argc, char ***argv) {
    if (*argc < 2 || !std::filesystem::is_directory((*argv)[*argc - 1])) return 0;
    const std::filesystem::path corpus = (*argv)[*argc - 1];
    int number = 0;
    for (const std::string &seed : pmfs::test::SEEDS())
        std::ofstream(corpus / ("seed" + std::to_string(number++)), std::ios::binary) << seed;
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    pmfs::test::FUZZ(std::as_bytes(std::span(data, size)));
    return 0;
}

#ifdef MUTATE
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t *data, std::size_t size,
                                               std::size_t size_max, unsigned seed) {
    std::string input(reinterpret_cast<const char *>(data), size);
    std::mt19937 random(seed);
    pmfs::test::MUTATE(&input, random);
    const std::size_t made = std::min(input.size(), size_max);
    std::copy_n(input.begin(), made, data);
    return made;
}
#endif
