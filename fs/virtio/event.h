// Eventfds that are shared with a front end, which may do with them as it likes: fill them, drain
// them, and make their descriptions blocking again at any moment (O_NONBLOCK is the description's,
// not ours alone).  So no plain read(2) or write(2) of them is known to return.
#pragma once

namespace pmfs::virtio {

// Resets the counter; never waits.  False: it is not an eventfd, and would be readable for ever.
bool take_count(int event);

// Increments the counter, and never waits: at the largest value, where write(2) would block, it
// does nothing, because the other side was notified already.  Any thread.
void count_up(int event);

}  // namespace pmfs::virtio
