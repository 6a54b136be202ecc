// What the code of holders asks of the volume (VolumeSide in holders/ground.h says when).
#pragma once
#include "holders/ground.h"
#include "volume/commits.h"
#include "volume/engine.h"
#include "volume/reaper.h"

namespace pmfs {

class ForHolders final : public VolumeSide {
public:
    ForHolders(Engine &engine, Commits &commits, Reaper &reaper)
        : engine_(engine), commits_(commits), reaper_(reaper) {}

    Result<> writable() const override { return pmfs::writable(engine_); }
    Result<> unclaimed_held(InodeNo ino) override { return engine_.claims.respect(ino); }
    Result<> settle_trim_held(InodeNo ino) override;
    Result<> clear_map_held(InodeNo ino) override;
    Result<> stored_held(InodeNo ino, std::uint32_t uid) override;
    Result<> will_store_held(InodeNo ino, std::uint32_t uid) override;
    Result<> clear_behind_end_held(InodeNo ino) override;

    void wait_for_writers() override { engine_.readers.wait_for_readers(); }
    void reap_or_park(InodeNo ino) override { reaper_.reap(ino); }
    void trim_or_park(InodeNo ino) override { reaper_.trim(ino); }
    Result<> make_durable() override { return commits_.make_durable(); }
    Result<> checkpoint() override { return commits_.now(true); }
    void parked_later(std::function<void()> again) override { commits_.park(0, std::move(again)); }

private:
    Engine &engine_;
    Commits &commits_;
    Reaper &reaper_;
};

}  // namespace pmfs
