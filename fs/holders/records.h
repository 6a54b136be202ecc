// Grant records: who maps the device, remembered on the medium (media/format.h "GrantHolder").
//
// A record is an inode on a list of its own. It claims the device blocks that its holder maps.
// While the grant lives the file's map does not change, so the claims cost nothing. When the grant
// is lost and a process may still map the blocks, they are quarantined (quarantines.h): blocks that
// the file gives up stay in use. When the holder is gone, these blocks are freed, and the record is
// removed.
//
// All functions are called with the volume's lock held (each says so with assert_held), exclusively
// if they change a record. kParkErrno: what was done so far is sound, call it again.
#pragma once
#include <vector>

#include "holders/ground.h"
#include "holders/record.h"
#include "holders/system.h"

namespace pmfs {

class Records {
public:
    Records(const Ground &ground, const System &system) : ground_(ground), system_(system) {}

    Result<InodeNo> add(const Grant &grant);
    // Another process holds the grant.
    Result<> set_holder(const Grant &grant);
    // Makes the record claim what its holder maps; may be called again after it had to park.
    Result<> claim(InodeNo record, GrantReason reason);
    // Frees the record and, with `settle`, what only it keeps from being free.
    Result<> drop(InodeNo record, bool settle);
    // The grant of this record ends, or is known to have ended: if its holder may have stored to
    // the file, updates the file's times.
    Result<> stored_by(InodeNo record);

    Result<Trace> trace(InodeNo record);
    Result<std::vector<core::Run>> claims_of(InodeNo record);
    // The blocks that the holder maps and the record does not claim yet.
    Result<std::vector<core::Run>> unclaimed(InodeNo record);
    // The claimed blocks that neither the file maps nor another record claims.  EUCLEAN: unknown,
    // so there are none.
    Result<std::vector<core::Run>> given_up(InodeNo record);
    // All of them, in the order of the medium's list.  EUCLEAN: the list is damaged behind those.
    Result<> list(std::vector<Trace> *all);

private:
    void describe(media::Inode *record, const Grant &grant) const;
    Result<> drop_claims(InodeNo record, const std::vector<core::Run> &free);

    const Ground &ground_;
    const System &system_;
};

}  // namespace pmfs
