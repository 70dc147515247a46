//go:build blackbox

package hostile

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The scheduling classes of an army: SCHED_IDLE, which runs when nobody else wants to,
// or where that is refused the largest niceness.
const (
	classIdle = "idle"
	classNice = "nice 19"

	niceMax = 19
)

// yieldAndRunAgain puts this thread into the lowest class there is and runs the program
// again on it, with one processor: all threads of a program inherit the class of its
// first.
func yieldAndRunAgain() error {
	runtime.LockOSThread()
	// A session of one's own is weighed as a whole, whatever is in it.
	if err := os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(niceMax)), 0); err != nil && !os.IsNotExist(err) {
		return err
	}
	class := classIdle
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0); err != nil {
		class = classNice
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceMax); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), classIn+"="+class, "GOMAXPROCS=1"))
}

// threadsAbove counts the threads of this process that are not in the class.
func threadsAbove(class string) (int, error) {
	stats, err := filepath.Glob("/proc/self/task/*/stat")
	if err != nil || len(stats) == 0 {
		return 0, fmt.Errorf("no threads in /proc: %w", err)
	}
	above := 0
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue // it has ended
		} else if err != nil {
			return 0, err
		}
		// "pid (name) state …": the name may hold anything; the state is field 3.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		policy, niceness := fields[41-3], fields[19-3]
		if policy != strconv.Itoa(unix.SCHED_IDLE) && (class == classIdle || niceness != strconv.Itoa(niceMax)) {
			above++
		}
	}
	return above, nil
}
