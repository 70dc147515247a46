package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/quorate-db/quorate/internal/pki"
)

// WebTLS says how clients are served over HTTPS.
type WebTLS struct {
	Cluster bool     // with a certificate by the cluster's authority
	Hosts   []string // more names and addresses for it
	Cert    string   // file of a certificate of one's own, instead
	Key     string   // and of its key
	CA      string   // file of authorities: clients have to show a certificate by one; "" = they need none
}

func (w WebTLS) on() bool { return w.Cluster || w.Cert != "" }

func (w WebTLS) validate(secured bool) error {
	switch {
	case (w.Cert == "") != (w.Key == ""):
		return errors.New("--tls-cert and --tls-key go together")
	case w.Cluster && w.Cert == "" && !secured:
		return errors.New("--tls: the certificate is derived from the cluster secret: give --cluster-secret-file, or --tls-cert and --tls-key")
	case w.CA != "" && !w.on():
		return errors.New("--tls-ca: goes with --tls, or with --tls-cert and --tls-key")
	case len(w.Hosts) > 0 && (!w.Cluster || w.Cert != ""):
		return errors.New("--tls-host: goes with --tls and the cluster's certificate")
	}
	for _, host := range w.Hosts {
		if host == "" || len(host) > 253 {
			return fmt.Errorf("--tls-host %q: want a name or an address", host)
		}
	}
	return nil
}

// secureWeb prepares HTTPS, if it is wanted.
func (p *process) secureWeb() error {
	w := p.config.Security.Web
	if !w.on() {
		return nil
	}
	get := p.clusterCertificate
	if w.Cert != "" {
		pair, err := pki.OpenPair(w.Cert, w.Key, p.log)
		if err != nil {
			return fmt.Errorf("--tls-cert, --tls-key: %w", err)
		}
		p.log.Info("clients are served over HTTPS", "certificate", w.Cert, "until", pair.Certificate().Leaf.NotAfter.UTC())
		p.keep(pair)
		get = func() (*tls.Certificate, error) { return pair.Certificate(), nil }
	} else {
		p.webHosts = webHosts(p.config.HTTP, w.Hosts)
		p.log.Info("clients are served over HTTPS with the cluster's certificate", "hosts", p.webHosts)
	}
	p.webTLS = pki.WebConfig(get)
	if w.CA != "" {
		clients, err := pki.OpenClients(w.CA, p.log)
		if err != nil {
			return fmt.Errorf("--tls-ca: %w", err)
		}
		p.keep(clients)
		clients.Require(p.webTLS)
	}
	return nil
}

// clusterCertificate mints the certificate for clients by the cluster's authority, at
// the first handshake: by then it is known who this node is.
func (p *process) clusterCertificate() (*tls.Certificate, error) {
	id := p.node.Identity()
	return p.ring.WebCertificate(pki.Name{Cluster: id.ClusterID(), Node: id.Node()}, p.webHosts)
}

// webHosts gives the names and addresses under which clients may reach this node: what
// it listens on and advertises, this machine's name, loopback, and what was given.
func webHosts(a Address, more []string) []string {
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, more...)
	for _, address := range []string{a.Listen, a.Advertise} {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			continue
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			hosts = append(hosts, interfaceAddresses()...)
			continue
		}
		hosts = append(hosts, host)
	}
	if name, err := os.Hostname(); err == nil && name != "" {
		hosts = append(hosts, name)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func interfaceAddresses() []string {
	var out []string
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil // the names are left
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}
