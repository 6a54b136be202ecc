// What layout_server and its clients say to each other: one packet each way.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

enum class Word : std::uint32_t { read = 1, layout, returned, revoked };
struct Message {  // bytes of the file or extents follow it
    Word word;
    std::int32_t error;            // in answers
    std::uint64_t offset, length;  // layout: where its next page begins, or 0
};
constexpr std::size_t kBytesMax = 60'000;  // behind a message

inline int fail(const std::string &what, int error) {
    std::fprintf(stderr, "layout_server: %s: %s\n", what.c_str(), std::strerror(error));
    return 1;
}

// The clients, on a connected socket; each gives an exit code.
int read_bytes(int server, std::uint64_t offset, std::uint64_t length);
int use_layout(int server);
