// layout_server - a file server that hands out a file's layout, and can take it back.
//
//     layout_server serve FILE-ON-PMFS SOCKET        until SIGTERM or SIGINT
//     layout_server read SOCKET OFFSET LENGTH        the bytes, on standard output
//     layout_server layout SOCKET                    the extents, until they are revoked; and again
//
// It does what pNFS, SMB Direct and their kind do: clients that can reach the medium ask for a
// file's layout and access it there themselves; the others are served straight from the medium,
// because the server maps the file.  All of that needs only one breakable lease.  When another
// process wants to change the block map (by truncating, for instance) the lease is broken: the
// server revokes its clients' layouts, waits for them as long as it can afford to, gives the lease
// back, takes a new one and continues.
#include <fcntl.h>
#include <pmfs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "layout_words.h"

namespace {

using Clock = std::chrono::steady_clock;
// The bytes go from the medium to the socket: there is no buffer.
void answer(int client, const Message &message, const void *bytes, std::size_t size) {
    iovec pieces[2] = {{const_cast<Message *>(&message), sizeof message},
                       {const_cast<void *>(bytes), size}};
    msghdr packet{};
    packet.msg_iov = pieces;
    packet.msg_iovlen = 2;
    (void)!::sendmsg(client, &packet, MSG_NOSIGNAL | MSG_DONTWAIT);
}

class Server {
public:
    Server(int file, int listener) : file_(file), listener_(listener) {}
    ~Server() { pmfs_unmap(map_); }
    Server(const Server &) = delete;
    Server &operator=(const Server &) = delete;

    int run(int signals) {
        if (const int error = take_lease()) return fail("the lease", error);
        for (;;) {
            std::vector<pollfd> all = {
                {signals, POLLIN, 0}, {listener_, POLLIN, 0}, {pmfs_map_event_fd(map_), POLLIN, 0}};
            for (const auto &[client, has_layout] : clients_) all.push_back({client, POLLIN, 0});
            if (::poll(all.data(), all.size(), -1) < 0) continue;
            if (all[0].revents != 0) return 0;
            for (std::size_t i = 3; i < all.size(); i++)
                if (all[i].revents != 0) receive(all[i].fd, false);
            const int came = all[1].revents != 0 ? ::accept(listener_, nullptr, nullptr) : -1;
            if (came >= 0) clients_[came] = false;
            const int error = all[2].revents != 0 ? obey() : 0;
            if (error != 0) return fail("the lease", error);
        }
    }

private:
    // Waits for the process that is changing the file.  What it added may need preparing.
    int take_lease() {
        int error = -pmfs_map(file_, 0, 0, PROT_READ, PMFS_MAP_BREAKABLE, &map_);
        if (error == EINVAL && (error = -pmfs_prepare(file_, 0, 0, 0)) == 0)
            error = -pmfs_map(file_, 0, 0, PROT_READ, PMFS_MAP_BREAKABLE, &map_);
        if (error == 0) std::printf("lease taken: %zu bytes\n", pmfs_map_length(map_));
        std::fflush(stdout);
        return error;
    }

    // The lease is being broken, or it has ended with the server of the mount.
    int obey() {
        pmfs_event event;
        if (pmfs_map_event(map_, &event) != 0) return 0;
        if (event.kind == PMFS_EVENT_ENDED) return ENOTCONN;
        for (const auto &[client, has_layout] : clients_)
            if (has_layout) answer(client, {Word::revoked, 0, 0, 0}, nullptr, 0);
        // The clients get half of the time.
        const auto end = Clock::now() + std::chrono::milliseconds(event.milliseconds / 2);
        while (Clock::now() < end && wait_for_layouts(end)) {
        }
        pmfs_unmap(map_);  // the acknowledgement
        map_ = nullptr;
        std::printf("lease given back\n");
        return take_lease();
    }

    // False: no client has a layout any more.
    bool wait_for_layouts(Clock::time_point end) {
        std::vector<pollfd> all;
        for (const auto &[client, has_layout] : clients_)
            if (has_layout) all.push_back({client, POLLIN, 0});
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
        if (all.empty()) return false;
        if (::poll(all.data(), all.size(), static_cast<int>(left.count())) > 0)
            for (const pollfd &one : all)
                if (one.revents != 0) receive(one.fd, true);
        return true;
    }

    void receive(int client, bool breaking) {
        Message message{};
        if (::recv(client, &message, sizeof message, MSG_DONTWAIT) != sizeof message) {
            ::close(client);
            clients_.erase(client);
        } else if (message.word == Word::returned) {
            clients_[client] = false;
        } else if (message.word == Word::layout) {
            give_layout(client, message, breaking);
        } else if (message.word == Word::read) {
            const std::uint64_t size = pmfs_map_length(map_);
            const std::uint64_t offset = std::min(message.offset, size);
            message.length = std::min({message.length, size - offset, std::uint64_t{kBytesMax}});
            answer(client, message, static_cast<char *>(pmfs_map_address(map_)) + offset,
                   message.length);
        }
    }

    void give_layout(int client, Message message, bool breaking) {
        pmfs_extents page{};
        page.version = PMFS_ABI_VERSION;
        page.from = message.offset;
        message.error = breaking ? EAGAIN : 0;
        if (!breaking && ::ioctl(file_, PMFS_IOC_EXTENTS, &page) != 0) message.error = errno;
        if (message.error != 0) page.count = 0;
        clients_[client] = message.error == 0;
        message.length = page.next;
        answer(client, message, page.extent, page.count * sizeof(pmfs_extent));
    }

    const int file_, listener_;
    struct pmfs_map *map_ = nullptr;
    std::map<int, bool> clients_;  // and whether each has the layout
};

int serve(const char *path, const sockaddr_un &address) {
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGTERM);
    ::sigaddset(&set, SIGINT);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    const int file = pmfs_open(path, O_RDWR, 0);
    if (file < 0) return fail(path, -file);
    const int listener = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (::bind(listener, reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0 ||
        ::listen(listener, 64) != 0)
        return fail(address.sun_path, errno);
    const int result = Server(file, listener).run(::signalfd(-1, &set, SFD_CLOEXEC));
    ::unlink(address.sun_path);
    return result;
}

}  // namespace

int main(int argc, char **argv) {
    const std::string verb = argc > 2 ? argv[1] : "";
    const int socket_at = verb == "serve" ? 3 : 2;
    if (!(verb == "serve" && argc == 4) && !(verb == "read" && argc == 5) &&
        !(verb == "layout" && argc == 3)) {
        std::fprintf(stderr,
                     "usage: layout_server serve FILE SOCKET | read SOCKET OFFSET LENGTH | "
                     "layout SOCKET\n");
        return 2;
    }
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[socket_at]);
    if (verb == "serve") return serve(argv[2], address);
    const int server = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (::connect(server, reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0)
        return fail(argv[2], errno);
    if (verb == "layout") return use_layout(server);
    return read_bytes(server, std::strtoull(argv[3], nullptr, 0),
                      std::strtoull(argv[4], nullptr, 0));
}
