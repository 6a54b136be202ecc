// A kernel of a few lines: it speaks the FUSE protocol to the front's dispatcher, in this process.
//
// So a test can send what no stock kernel sends (the fallocate interfaces of docs/seal.md, collapse
// and insert) and see each errno as it leaves the server.  Notifications come here as well: a test
// may write "dirty pages" back when one arrives, as a kernel does.
#pragma once
#include <linux/fuse.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "client/pmfs_ioctl.h"
#include "front/requests/dispatcher.h"
#include "front/transports/transport.h"

namespace pmfs::test {

struct As {                                   // who asks
    std::uint32_t uid = 0, gid = 0, pid = 0;  // pid 0: this process
};

struct Reply {
    int error = 0;  // positive errno value
    std::vector<std::byte> body;

    template <class T>
    T as(std::size_t offset = 0) const {
        return load<T>(body, offset);
    }
    std::string text() const { return {reinterpret_cast<const char *>(body.data()), body.size()}; }
};

struct OpenFile {
    int error = 0;
    std::uint64_t node = 0;
    std::uint64_t handle = 0;
    std::uint32_t open_flags = 0;  // FOPEN_*

    bool told = false;  // the kernel was told to drop all pages before the answer

    bool direct() const { return (open_flags & FOPEN_DIRECT_IO) != 0; }
    bool keeps_pages() const { return (open_flags & FOPEN_KEEP_CACHE) != 0 && !told; }
};

class Wire : public front::ReplyPort {
public:
    // Introduces itself (INIT).  The volume must outlive the wire.
    explicit Wire(Volume &volume, const front::DispatchOptions &options = {});
    // Another client of the same volume.  The first wire must outlive it.
    Wire(Wire &first, front::Policy policy, const front::DispatchOptions &options = {});
    ~Wire() override;

    front::Dispatcher &dispatcher() { return *dispatcher_; }
    front::Clients &clients() { return *clients_; }
    std::uint32_t agreed() const { return agreed_; }  // the flags of INIT's answer
    // Called for each "forget this inode's pages", by a thread of the notifier's.
    std::function<void(std::uint64_t node)> on_invalidate;
    // What was sent since the last call, in order: "attr NODE", "pages NODE OFFSET LENGTH",
    // "name NODE TEXT", "reply ERROR".
    std::vector<std::string> sent();
    std::ptrdiff_t count_sent(const std::string &what);  // of these, which sent() still gives

    // --- requests.  Names are in the root directory unless a node says otherwise.
    std::uint64_t lookup(std::string_view name);  // 0: none
    OpenFile create(std::string_view name, As as = {});
    OpenFile open(std::uint64_t node, int flags, As as = {});
    void release(const OpenFile &file);
    Reply read(const OpenFile &file, std::uint64_t offset, std::uint32_t size);
    int write(const OpenFile &file, std::uint64_t offset, std::string_view bytes, As as = {});
    int write_back(std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                   std::string_view bytes);
    int truncate(std::uint64_t node, std::uint64_t size, As as = {});
    int setattr(std::uint64_t node, const fuse_setattr_in &what, As as = {});
    fuse_attr getattr(std::uint64_t node);
    int fallocate(const OpenFile &file, unsigned mode, std::uint64_t offset, std::uint64_t length,
                  As as = {});
    int setxattr(std::uint64_t node, const std::string &name, std::string_view value, As as = {});
    int removexattr(std::uint64_t node, const std::string &name, As as = {});
    Reply getxattr(std::uint64_t node, const std::string &name);
    std::string listxattr(std::uint64_t node);
    int unlink(const std::string &name);
    int rename(const std::string &from, const std::string &to);
    int link(std::uint64_t node, const std::string &name);
    std::uint64_t make_node(const std::string &name, std::uint32_t mode);
    std::uint64_t open_directory(std::uint64_t node);
    // `io` is filled in as the kernel would, also on failure.  Gives a positive errno value or 0.
    int ioctl_raw(std::uint64_t node, std::uint64_t handle, unsigned command, void *io, As as = {});
    template <class T>
    int ioctl(const OpenFile &file, unsigned long command, T *io, As as = {}) {
        return ioctl_raw(file.node, file.handle, static_cast<unsigned>(command), io, as);
    }

    // Sends a request and does not wait; gives its number.
    std::uint64_t post(std::uint32_t opcode, std::uint64_t node, std::string_view body, As as = {});
    // The client goes.  A wire that is not the first does so at its end.
    void leave();
    Reply call(std::uint32_t opcode, std::uint64_t node, std::string_view body, As as = {});

    ssize_t send(std::span<const iovec> message) override;
    bool let_wait(std::uint32_t) override { return lets_wait; }
    bool lets_wait = true;

private:
    void begin(front::Policy policy, const front::DispatchOptions &options);
    void notify(std::span<const std::byte> message);

    std::mutex mutex_;
    std::condition_variable arrived_;
    std::map<std::uint64_t, Reply> replies_;
    std::vector<std::string> sent_;
    std::uint64_t next_unique_ = 2;
    std::unique_ptr<front::Clients> own_clients_;
    front::Clients *clients_;
    bool left_ = false;
    std::uint32_t agreed_ = 0;
    std::shared_ptr<front::Dispatcher> dispatcher_;
};

template <class T>
std::string bytes_text(const T &object) {
    return {reinterpret_cast<const char *>(&object), sizeof object};
}

}  // namespace pmfs::test
