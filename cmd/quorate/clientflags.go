package main

import (
	"github.com/spf13/pflag"

	"github.com/quorate-db/quorate/internal/server"
)

// addClientFlags adds the flags about the clients of a node.
func addClientFlags(f *pflag.FlagSet, c *server.Clients) {
	f.IntVar(&c.Connections, "connections-max", 0, "connections of clients at most, of which one address may have a quarter (default 4096, or half of the file descriptors)")
	f.BoolVar(&c.BehindProxy, "behind-proxy", false, "clients come through a proxy: what one address may take is not limited")
}
