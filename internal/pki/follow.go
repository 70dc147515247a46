package pki

import (
	"context"
	"log/slog"
	"os"
	"slices"
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

// Follower keeps a keyring as a file says.
type Follower struct {
	Path string
	Ring *Keyring
	Log  *slog.Logger

	failed string // what was last wrong with the file; it is told once
}

// Look reads the file once and takes over what has changed. A file that cannot be
// used changes nothing: the secrets that were there go on.
func (f *Follower) Look() {
	secrets, err := ReadSecrets(f.Path)
	if err == nil {
		ids := make([]string, 0, len(secrets))
		for _, s := range secrets {
			ids = append(ids, s.ID())
		}
		before := f.Ring.IDs()
		if slices.Equal(ids, before) {
			f.failed = ""
			return
		}
		if err = f.Ring.Replace(secrets); err == nil {
			f.failed = ""
			f.Log.Info("cluster secrets changed", "in_use", ids[0], "accepted", ids, "before", before)
			return
		}
	}
	if text := err.Error(); text != f.failed {
		f.failed = text
		f.Log.Error("cannot read the cluster secrets; those that were read before go on", "err", err)
	}
}
