// Running jobs and continuing operations: see workers.h.
#include "volume/workers.h"

#include "pm/region.h"

namespace pmfs {

Result<> Workers::start() {
    return background_ ? pool_.start() : Result<>();
}

void Workers::run(std::uint32_t user, std::uint64_t file, bool lengthy,
                  std::function<void()> work) {
    auto run = [work = std::move(work)] {
        const pm::FaultScope faults;
        work();
    };
    if (!background_ || !pool_.submit({user, file, run, lengthy})) run();
}

void Workers::resume(InodeNo ino, std::function<void()> again, std::uint32_t user) {
    if (!background_) return later_(std::move(again));
    auto run = [again = std::move(again)] {
        const pm::FaultScope faults;
        again();
    };
    (void)pool_.submit({user, ino.value(), std::move(run)});
}

}  // namespace pmfs
