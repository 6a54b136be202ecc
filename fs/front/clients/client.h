// A sender of requests: the local mount, or a guest. A client owns the node ids and open files that
// it was given, and cannot name others. When it goes, everything that it held is released, once.
//
// The volume counts the references and handles of all clients together; this class knows which
// belong to one client.
#pragma once
#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "base/mutex.h"
#include "front/clients/notifier.h"
#include "front/clients/policy.h"
#include "volume/volume.h"

namespace pmfs::front {

// Where a client comes from, for the administrator.
struct Origin {
    std::string name;       // a guest's socket; empty: the local mount
    std::uint32_t pid = 0;  // of a guest's virtual machine monitor
};

class Client {
public:
    Client(Volume &volume, ClientId id, Policy policy, Origin origin);
    Client(const Client &) = delete;
    Client &operator=(const Client &) = delete;

    ClientId id() const { return id_; }
    const Policy &policy() const { return policy_; }
    const Origin &origin() const { return origin_; }
    bool whole() const { return policy_.root == InodeNo(kRootNode); }

    // --- node ids: the client's root is number 1, every other node has its inode's.
    static constexpr std::uint64_t kRootNode = 1;
    // Nothing: a number that no node of the client has.
    std::optional<InodeNo> inode_of(std::uint64_t node) const;
    std::uint64_t node_of(InodeNo ino) const {
        return ino == policy_.root ? kRootNode : ino.value();
    }
    bool holds(InodeNo ino);
    // ESTALE: the client was not given it.  `by_number`: any file that has a name is allowed (a
    // handle of open_by_handle_at(2)), if the client sees the whole volume.
    Result<> check_node(InodeNo ino, bool by_number);
    // The client gets a node.  The volume has counted the reference.
    void add_lookup(InodeNo ino);
    // As many references as the client says, but no more than it was given.
    void forget(InodeNo ino, std::uint64_t count);
    // The client's kernel must take a node's attributes from an answer; whether it must; and it
    // has.  It ignores those of an answer before which it was told to write pages back, because it
    // changes them itself then.
    void owe_attributes(InodeNo ino);
    bool owes_attributes(InodeNo ino);
    void paid_attributes(InodeNo ino);

    // --- open files
    // EBADF: it belongs to another client or another file, or was not opened for that.
    Result<HandleInfo> check_handle(HandleId handle, InodeNo ino, bool writes);
    void opened(HandleId handle);
    bool has_open(HandleId handle);
    // True once for each handle: that caller releases the handle in the volume.
    bool closed(HandleId handle);
    // A grant was taken (ENOLCK: it has too many) or given back.
    Result<> take_grant_place(HandleId handle);
    void free_grant_place(HandleId handle);

    // True: nobody else has that directory open.
    bool opened_directory(InodeNo ino);
    void closed_directory(InodeNo ino);

    // ENFILE, EMFILE: the client has as many as it may have.
    Result<> check_room(bool for_node, bool for_handle) const;

    // --- requests that came, by opcode; those of higher numbers together, under 0
    static constexpr std::size_t kRequestKinds = 64;
    void count_request(std::uint32_t opcode) {
        requests_[opcode < kRequestKinds ? opcode : 0].fetch_add(1, std::memory_order_relaxed);
    }
    std::uint64_t requests(std::size_t kind) const {
        return requests_[kind].load(std::memory_order_relaxed);
    }

    // Of a client whose kernel can be told; null: it cannot.
    Notifier *notifier() { return notifier_.get(); }
    // EAGAIN: no more threads.
    Result<> start_notifier(Notifier::Kernel kernel);

    // Drops work that is still under way for a client that has gone.
    bool gone() const { return gone_.load(); }
    void set_gone() { gone_.store(true); }
    // Releases everything.
    void forget_all(const std::function<void(HandleId)> &release);

private:
    struct Shard {
        Mutex mutex;
        std::unordered_map<std::uint64_t, std::uint64_t> lookups GUARDED_BY(mutex);  // by inode
        std::unordered_map<HandleId, std::size_t> grants GUARDED_BY(mutex);          // by open file
        std::unordered_set<std::uint64_t> owed GUARDED_BY(mutex);  // attributes of these inodes
        std::unordered_map<std::uint64_t, std::uint64_t> directories
            GUARDED_BY(mutex);  // that are open
    };
    static constexpr std::size_t kShards = 16;
    void recount_grants();
    // One more node has gone, and `left` remain: now and then the system gets memory back.
    void count_forgotten(std::size_t left);
    Shard &shard_of(std::uint64_t number) { return shards_[number % kShards]; }

    Volume &volume_;
    const ClientId id_;
    const Policy policy_;
    const Origin origin_;
    std::array<Shard, kShards> shards_;
    std::atomic<std::size_t> nodes_{0}, handles_{0}, grants_{0}, owed_{0};
    std::atomic<std::size_t> forgotten_{0};  // nodes, since memory was given back
    std::atomic<bool> gone_{false};
    std::array<std::atomic<std::uint64_t>, kRequestKinds> requests_{};
    std::unique_ptr<Notifier> notifier_;
};

}  // namespace pmfs::front
