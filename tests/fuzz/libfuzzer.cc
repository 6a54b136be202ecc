// The fuzzers as programs (clang, libFuzzer): FUZZ is the function, SEEDS where it begins.  The
// seeds are mutated like any other input: they are given as a corpus, which this writes first.
//
//     CC=clang CXX=clang++ meson setup build-fuzz -Dcpp_args=-fsanitize=fuzzer-no-link,address \
//         -Dcpp_link_args=-fsanitize=address
//     ninja -C build-fuzz tests/fuzz_messages tests/fuzz_queue
//     mkdir corpus && build-fuzz/tests/fuzz_messages corpus
#include <cstdint>
#include <filesystem>
#include <fstream>

#include "fuzz/virtio.h"

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
