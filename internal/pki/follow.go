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

// contents are what there is to know of files besides what is made of them.
type contents struct {
	sum   checksum
	terms []Term // of their certificates, one a file
}

// follower keeps what files say, as a T, while they change. A version of them that
// cannot be used changes nothing: the one before goes on, and the log says once what is
// wrong, and of each version once that it ends soon. Any number may call load and Terms;
// the rest is for one at a time.
type follower[T any] struct {
	read func() (T, contents, error)
	// take may refuse what was read and differs, and gives what the log says of it.
	take              func(next T) (about []any, err error)
	changed, unusable string // what the log says
	log               *slog.Logger
	now               func() time.Time

	current atomic.Pointer[version[T]]
	failed  string      // what was last wrong
	warned  *version[T] // whose end was told of
}

// version is what files said at one time. It never changes.
type version[T any] struct {
	what T
	contents
}

// load gives what counts.
func (f *follower[T]) load() T { return f.current.Load().what }

// Terms gives from when to when the files count.
func (f *follower[T]) Terms() []Term { return f.current.Load().terms }

// open reads the files for the first time.
func (f *follower[T]) open() error {
	first, in, err := f.read()
	if err == nil {
		f.current.Store(&version[T]{first, in})
	}
	return err
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
	f.warn()
}

func (f *follower[T]) renew() error {
	next, in, err := f.read()
	if err != nil || in.sum == f.current.Load().sum {
		return err
	}
	about, err := f.take(next)
	if err == nil {
		f.current.Store(&version[T]{next, in})
		f.log.Info(f.changed, about...)
	}
	return err
}

// warn tells once of certificates that end soon.
func (f *follower[T]) warn() {
	v, now := f.current.Load(), f.now()
	if v == f.warned {
		return
	}
	for _, t := range v.terms {
		if t.EndsSoon(now) {
			f.warned = v
			f.log.Warn("a certificate ends soon", "use", t.Use, "file", t.File, "subject", t.Subject, "until", t.End.UTC())
		}
	}
}

// FollowSecrets gives what keeps a keyring as a file says, whenever it is called.
func FollowSecrets(path string, ring *Keyring, log *slog.Logger) (look func()) {
	f := &follower[[]Secret]{
		changed: "cluster secrets changed", unusable: "cannot read the cluster secrets; those that were read before go on", log: log,
		now: time.Now,
	}
	f.current.Store(&version[[]Secret]{nil, contents{sum: sumOf(ring.IDs())}})
	f.read = func() ([]Secret, contents, error) {
		secrets, err := ReadSecrets(path)
		return secrets, contents{sum: sumOf(idsOf(secrets))}, err
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
