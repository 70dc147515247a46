package server

import (
	"errors"
	"log/slog"
	"os"
)

// keepPrivate takes the data directory away from everybody but the owner of this
// process. A directory that another user owns, as some platforms' volumes are, stays as
// it is, and that is said: what is in it, all data and the audit log, is then as private
// as its owner made it.
func keepPrivate(dir string, log *slog.Logger) {
	info, err := os.Stat(dir)
	if err == nil && info.Mode().Perm()&0o077 == 0 {
		return
	}
	if err == nil && info.Mode()&os.ModeSticky != 0 {
		err = errors.New("it is shared, as /tmp is") // and has to go on so
	}
	if err == nil {
		err = os.Chmod(dir, 0o700)
	}
	if err != nil {
		log.Warn("others than this process's user may look into the data directory", "dir", dir, "err", err)
	}
}
