package pki

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"time"
)

// Follower keeps a keyring as a file says.
type Follower struct {
	Path  string
	Ring  *Keyring
	Every time.Duration // between two looks at the file
	Log   *slog.Logger

	failed string // what was last wrong with the file; it is told once
}

// Run looks at the file until ctx ends, and whenever hurry tells it to.
func (f *Follower) Run(ctx context.Context, hurry <-chan os.Signal) {
	tick := time.NewTicker(f.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-hurry:
		}
		f.Look()
	}
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
