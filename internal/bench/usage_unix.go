//go:build unix

package bench

import (
	"syscall"
	"time"
)

// usage is what this process has used so far.
type usage struct{ processor time.Duration }

func usageNow() usage {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return usage{}
	}
	return usage{processor: time.Duration(u.Utime.Nano() + u.Stime.Nano())}
}
