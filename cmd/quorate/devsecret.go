package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/internal/pki"
)

// devSecretFile is where the secret of a local cluster is, in its data directory.
const devSecretFile = "cluster.secret"

func (d *devCluster) secretPath() string { return filepath.Join(d.dir, devSecretFile) }

// secretArgs makes the cluster's secret, if there is none yet and one is wanted, and
// gives the flags that tell the nodes of it.
func (d *devCluster) secretArgs() ([]string, error) {
	if d.o.insecure || d.o.ownSecret {
		return nil, nil
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	path := d.secretPath()
	if err := pki.WriteSecret(path, pki.NewSecret()); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cluster secret: %w", err)
	}
	return []string{"--cluster-secret-file", path}, nil
}

// tlsArgs gives the flags that have the nodes serve HTTPS, if it is wanted, and has dev
// itself trust them. The secret is there by then.
func (d *devCluster) tlsArgs() ([]string, error) {
	if !d.o.tls {
		return nil, nil
	}
	pem := d.o.ownAuthority
	if !d.o.ownSecret {
		var err error
		if pem, err = authorities(noEnv, d.secretPath()); err != nil {
			return nil, fmt.Errorf("cluster secret: %w", err)
		}
	}
	var err error
	d.trust, err = client.TrustCA(pem)
	return []string{"--tls"}, err
}

// noEnv is an environment without variables.
func noEnv(string) (string, bool) { return "", false }

// tellTrust says how clients trust the nodes, if they have to.
func (d *devCluster) tellTrust() {
	if !d.o.tls {
		return
	}
	from := ""
	if !d.o.ownSecret {
		from = " --cluster-secret-file " + shellWords(d.secretPath())
	}
	fmt.Fprintf(d.talk, "clients trust it with --ca-file ca.pem (curl: --cacert) or QUORATE_CA_FILE, after\n  quorate cert%s > ca.pem\n", from)
}
