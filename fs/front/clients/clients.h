// All clients of a volume: how they are admitted, and how the one kernel that caches is notified of
// what the others change (docs/coherence.md).
//
// There is only one such kernel, that of the local mount. With two, each could wait for a directory
// that a request of the other keeps locked.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "front/clients/client.h"
#include "front/clients/file_locks.h"
#include "front/clients/seats.h"

namespace pmfs::front {

// What a request changed, for a kernel that did not send the request.
struct News {
    std::vector<Notifier::Name> names;  // name another file now, or none
    std::vector<InodeNo> attributes;
    std::optional<Notifier::Pages> pages;  // have other bytes now

    bool any() const { return !names.empty() || !attributes.empty() || pages; }
};

class Clients final : public AttributeWatcher {
public:
    // Before the volume's first operation; must outlive it.
    explicit Clients(Volume &volume);

    Volume &volume() { return volume_; }
    FileLocks &locks() { return locks_; }
    Seats &seats() { return seats_; }
    // Errors: ENOTDIR and those of looking up its root; EBUSY: a second notifiable client.
    Result<std::shared_ptr<Client>> admit(Policy policy, Origin origin = {});
    // The client has released everything, and is removed.
    void dismiss(Client &client);
    // All clients, by id.
    std::vector<std::shared_ptr<const Client>> present() EXCLUDES(mutex_);

    // True when another client must be told what that client changes.
    bool others_hear(const Client &client) {
        return notified_ != nullptr && notified_.get() != &client;
    }
    // Runs `then` once the other client's kernel has been told.  `user`: whose request it is.
    void tell_others(const Client &client, const News &news, std::uint32_t user,
                     std::function<void()> then);
    // For a request of that client: whether another kernel may have cached something of that inode.
    bool cached(const Client &client, InodeNo ino);
    // Runs `then` once that kernel has written those pages back and dropped them,
    void flush(const Client &client, const Notifier::Pages &pages, std::uint32_t user,
               const std::function<void()> &then);
    // or once it has dropped the attributes of the inode.
    void forget_attributes(const Client &client, InodeNo ino, const std::function<void()> &then);

    // A number that grows when tell_others() is called.  What a request read before a change must
    // not be cached by its kernel if it is answered after others were told.
    std::uint64_t told_so_far() const { return tellings_.load(std::memory_order_acquire); }

    // AttributeWatcher
    void attributes_changed(InodeNo ino) override;

private:
    Volume &volume_;
    FileLocks locks_;
    Seats seats_;
    std::shared_ptr<Client> notified_;  // the client whose kernel is; set before others use it
    Mutex mutex_;
    std::map<ClientId, std::weak_ptr<const Client>> present_ GUARDED_BY(mutex_);
    std::atomic<ClientId> next_{1};
    std::atomic<std::uint64_t> tellings_{0};
};

}  // namespace pmfs::front
