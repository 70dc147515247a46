package pki

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Follow calls all looks every so often, and whenever hurry says so, until ctx ends.
func Follow(ctx context.Context, every time.Duration, hurry <-chan os.Signal, looks ...func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-hurry:
		}
		for _, look := range looks {
			look()
		}
	}
}

// checksum tells versions of files apart by what counts in them.
type checksum = [sha256.Size]byte

// follower keeps what files say, as a T, while they change. A version of them that
// cannot be used changes nothing: the one before goes on, and the log says once what is
// wrong. Any number may call load; the rest is for one at a time.
type follower[T any] struct {
	read func() (T, checksum, error)
	// take may refuse what was read and differs, and gives what the log says of it.
	take              func(next T) (about []any, err error)
	changed, unusable string // what the log says
	log               *slog.Logger

	current atomic.Pointer[T]
	sum     checksum // of what current was read from
	failed  string   // what was last wrong
}

// load gives what counts.
func (f *follower[T]) load() T { return *f.current.Load() }

// open reads the files for the first time.
func (f *follower[T]) open() error {
	first, sum, err := f.read()
	if err == nil {
		f.keep(first, sum)
	}
	return err
}

func (f *follower[T]) keep(what T, sum checksum) {
	f.sum = sum
	f.current.Store(&what)
}

// Look reads the files once and takes over what has changed. Files that do not fit
// together, as when one of them has been replaced so far, change nothing.
func (f *follower[T]) Look() {
	err := f.renew()
	switch {
	case err == nil:
		f.failed = ""
	case err.Error() != f.failed:
		f.failed = err.Error()
		f.log.Error(f.unusable, "err", err)
	}
}

func (f *follower[T]) renew() error {
	next, sum, err := f.read()
	if err != nil || sum == f.sum {
		return err
	}
	about, err := f.take(next)
	if err == nil {
		f.keep(next, sum)
		f.log.Info(f.changed, about...)
	}
	return err
}

// FollowSecrets gives what keeps a keyring as a file says, whenever it is called.
func FollowSecrets(path string, ring *Keyring, log *slog.Logger) (look func()) {
	f := &follower[[]Secret]{
		changed: "cluster secrets changed", unusable: "cannot read the cluster secrets; those that were read before go on", log: log,
		sum: sumOf(ring.IDs()),
	}
	f.read = func() ([]Secret, checksum, error) {
		secrets, err := ReadSecrets(path)
		return secrets, sumOf(idsOf(secrets)), err
	}
	f.take = func(next []Secret) ([]any, error) {
		before := ring.IDs()
		if err := ring.Replace(next); err != nil {
			return nil, err
		}
		return []any{"in_use", next[0].ID(), "accepted", idsOf(next), "before", before}, nil
	}
	return f.Look
}

func idsOf(secrets []Secret) []string {
	ids := make([]string, 0, len(secrets))
	for _, s := range secrets {
		ids = append(ids, s.ID())
	}
	return ids
}

// sumOf tells secrets by their ids: what else is in their file does not count.
func sumOf(ids []string) checksum { return sha256.Sum256([]byte(strings.Join(ids, "\n"))) }
