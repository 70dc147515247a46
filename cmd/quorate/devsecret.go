package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/quorate-db/quorate/internal/pki"
)

// devSecretFile is where the secret of a local cluster is, in its data directory.
const devSecretFile = "cluster.secret"

// secretArgs makes the cluster's secret, if there is none yet and one is wanted, and
// gives the flags that tell the nodes of it.
func (d *devCluster) secretArgs() ([]string, error) {
	if d.o.insecure || d.o.ownSecret {
		return nil, nil
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(d.dir, devSecretFile)
	if err := pki.WriteSecret(path, pki.NewSecret()); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cluster secret: %w", err)
	}
	return []string{"--cluster-secret-file", path}, nil
}
