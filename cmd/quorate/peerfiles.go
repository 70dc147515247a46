package main

import (
	"github.com/spf13/pflag"

	"github.com/quorate-db/quorate/internal/pki"
)

// addPeerFiles adds the flags for certificates of one's own between nodes.
func addPeerFiles(f *pflag.FlagSet, p *pki.Files) {
	f.StringVar(&p.Cert, "peer-cert", "", "instead of a secret: this node's certificate for other nodes, PEM, with the name quorate://NAME/node; read again when it changes")
	f.StringVar(&p.Key, "peer-key", "", "its key, PEM")
	f.StringVar(&p.CA, "peer-ca", "", "authorities of all nodes' certificates, PEM; read again when it changes")
}
