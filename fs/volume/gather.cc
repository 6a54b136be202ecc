// An operation that empties a chunk: see gather.h.
#include "volume/gather.h"

#include "volume/evacuation.h"

namespace pmfs {

namespace {

class Gather final : public Operation {
public:
    explicit Gather(Engine &engine)
        : Operation(engine.claims, InodeNo()),
          e_(engine),
          evacuation_(engine, 1, 1, Evacuation::Worth::needed, nullptr) {}
    Hold hold() const override { return evacuation_.hold(); }
    Result<bool> step() override {
        if (!TRY(evacuation_.step())) return false;
        e_.lock.assert_held();
        evacuation_.finish();
        return true;
    }

private:
    Engine &e_;
    Evacuation evacuation_;
};

}  // namespace

Result<> gather_free_space(Engine &engine, Scheduler &scheduler, const Caller &caller) {
    auto operation = resumed_or_new<Gather>(caller.progress, InodeNo(), engine);
    return scheduler.run_or_keep(operation, caller.progress);
}

}  // namespace pmfs
