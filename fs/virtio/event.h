// Eventfds that are shared with a front end, which may do with them as it likes: fill them, drain
// them, and make their descriptions blocking again at any moment (O_NONBLOCK is the description's,
// not ours alone).  So no plain read(2) or write(2) of them is known to return.
#pragma once

namespace pmfs::virtio {

// Takes what has been counted; never waits.  False: it is no eventfd, and would be readable for
// ever.
bool take_count(int event);

// Counts up by one, and never waits: where a write(2) would, at the largest count, nothing happens,
// for the other side has been told.  Any thread.
void count_up(int event);

}  // namespace pmfs::virtio
