// layout_server's clients: one is served, the other is told where the file lies.
#include <pmfs_ioctl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <vector>

#include "layout_words.h"

namespace {

// Asks, and gives the size of the bytes that follow the answer; or -errno.
ssize_t ask(int server, Message *message, void *bytes) {
    if (::send(server, message, sizeof *message, MSG_NOSIGNAL) < 0) return -errno;
    iovec pieces[2] = {{message, sizeof *message}, {bytes, kBytesMax}};
    const ssize_t got = ::readv(server, pieces, 2);
    if (got < static_cast<ssize_t>(sizeof *message)) return got < 0 ? -errno : -ECONNRESET;
    return message->error != 0 ? -message->error : got - static_cast<ssize_t>(sizeof *message);
}

int print_layout(int server) {
    std::vector<pmfs_extent> page(kBytesMax / sizeof(pmfs_extent) + 1);
    Message message{Word::layout, 0, 0, 0};
    do {
        message.offset = message.length;
        const ssize_t got = ask(server, &message, page.data());
        if (got < 0) return static_cast<int>(-got);
        for (std::size_t i = 0; i < static_cast<std::size_t>(got) / sizeof(pmfs_extent); i++)
            std::printf("%llu %llu %llu\n", static_cast<unsigned long long>(page[i].offset),
                        static_cast<unsigned long long>(page[i].device),
                        static_cast<unsigned long long>(page[i].length));
    } while (message.length != 0);
    std::printf("that is all\n");
    std::fflush(stdout);
    return 0;
}

}  // namespace

int read_bytes(int server, std::uint64_t offset, std::uint64_t length) {
    std::vector<char> bytes(kBytesMax);
    while (length != 0) {
        Message message{Word::read, 0, offset, length};
        const ssize_t got = ask(server, &message, bytes.data());
        if (got < 0) return fail("reading", static_cast<int>(-got));
        if (got == 0) break;  // the end of the file
        std::fwrite(bytes.data(), 1, static_cast<std::size_t>(got), stdout);
        offset += static_cast<std::uint64_t>(got);
        length -= static_cast<std::uint64_t>(got);
    }
    return 0;
}

// A client that has nothing to do but to give its layout back when it is told to.
int use_layout(int server) {
    for (;;) {
        const int error = print_layout(server);
        if (error == EAGAIN) {  // it is just being revoked from others
            ::poll(nullptr, 0, 10);
            continue;
        }
        Message message{};
        if (error != 0) return fail("the layout", error);
        if (::recv(server, &message, sizeof message, 0) != sizeof message) return 0;
        std::printf("revoked\n");
        message.word = Word::returned;
        if (::send(server, &message, sizeof message, MSG_NOSIGNAL) < 0) return fail("send", errno);
    }
}
