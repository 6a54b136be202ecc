// A table with a fixed number of places that users share: an eighth is reserved for root, and no
// other user gets more than a share of them. So no user can lock the administrator out.
//
// Guarded by the lock of whatever it counts.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>

namespace pmfs {

class Places {
public:
    explicit Places(std::size_t max) : max_(max) {}

    enum class Taken { yes, table_full, share_full };
    // Places that are taken but not counted here: all, and those of the user.
    struct Elsewhere {
        std::size_t all, of_user;
    };
    // `share`: the most that the user may have, root excepted.
    Taken take(std::uint32_t uid, std::size_t share, Elsewhere elsewhere = {},
               std::size_t count = 1) {
        const std::size_t open_to_all = max_ - (uid == 0 ? 0 : max_ / 8);
        if (total_ + elsewhere.all + count > open_to_all) return Taken::table_full;
        if (uid != 0) {
            const auto mine = of_user_.find(uid);
            const std::size_t has = mine == of_user_.end() ? 0 : mine->second;
            if (has + elsewhere.of_user + count > share) return Taken::share_full;
            of_user_[uid] = has + count;
        }
        total_ += count;
        return Taken::yes;
    }
    void give_back(std::uint32_t uid, std::size_t count = 1) {
        total_ -= count;
        if (uid == 0) return;
        const auto found = of_user_.find(uid);
        if (found != of_user_.end() && (found->second -= count) == 0) of_user_.erase(found);
    }

private:
    std::size_t max_;
    std::size_t total_ = 0;
    std::unordered_map<std::uint32_t, std::size_t> of_user_;  // none for root
};

}  // namespace pmfs
