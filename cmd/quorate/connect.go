package main

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/kv"
)

const endpointDefault = "http://127.0.0.1:7001"

// clientFlags are the flags of every command that talks to a cluster.
type clientFlags struct {
	env       lookupEnv
	endpoints []string
	timeout   time.Duration
	output    format
	caFile    string
	certFile  string
	keyFile   string
	tokenFile string
	given     string // a token that comes before all others
	anonymous bool   // go without a token if there is one and it cannot be read
}

// addTo declares the flags; preset is the command's own default of -o.
func (f *clientFlags) addTo(cmd *cobra.Command, env lookupEnv, preset format) {
	f.env, f.output = env, preset
	flags := cmd.Flags()
	flags.StringSliceVar(&f.endpoints, "endpoint", []string{endpointDefault}, "node to talk to; several, separated by commas, to go on when one is down")
	flags.DurationVar(&f.timeout, "timeout", kv.RequestTimeoutDefault, "how long a request may take, retries included")
	flags.StringVar(&f.caFile, "ca-file", "", "PEM file with the authorities to trust for https endpoints, as 'quorate cert' prints them (default: the system's)")
	flags.StringVar(&f.certFile, "cert-file", "", "PEM file with a certificate to show to https endpoints that ask for one")
	flags.StringVar(&f.keyFile, "key-file", "", "its key, PEM")
	flags.StringVar(&f.tokenFile, "token-file", "", "file with the token to send; else QUORATE_TOKEN, else what 'quorate login' keeps")
	flags.VarP(&f.output, "output", "o", "how to print")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "plain"}, cobra.ShellCompDirectiveNoFileComp))
}

// connect makes the client; the caller closes it.
func (f *clientFlags) connect() (*client.Client, error) {
	token, err := f.credential()
	if err != nil {
		return nil, err
	}
	secure, err := f.tls()
	if err != nil {
		return nil, usageError{err}
	}
	c, err := client.New(client.Config{Endpoints: f.endpoints, Timeout: f.timeout, Token: token, UserAgent: "quorate-cli", TLS: secure})
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// tls gives the TLS configuration for https endpoints; nil: nothing special.
func (f *clientFlags) tls() (*tls.Config, error) {
	config, err := f.trust()
	if err != nil || f.certFile == "" && f.keyFile == "" {
		return config, err
	}
	if f.certFile == "" || f.keyFile == "" {
		return nil, errors.New("--cert-file and --key-file go together")
	}
	own, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return nil, fmt.Errorf("--cert-file, --key-file: %w", err)
	}
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	config.Certificates = []tls.Certificate{own}
	return config, nil
}

// trust gives the TLS configuration for https endpoints; nil: what the system trusts.
// Who has the cluster secret in the environment, as a node's container does, needs no
// file: the authority is derived from it.
func (f *clientFlags) trust() (*tls.Config, error) {
	if f.caFile != "" {
		config, err := client.TrustCAFile(f.caFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		return config, nil
	}
	if !slices.ContainsFunc(f.endpoints, isHTTPS) {
		return nil, nil
	}
	pem, err := authoritiesFromEnv(f.env)
	if err != nil || pem == nil {
		return nil, err
	}
	return client.TrustCA(pem)
}

func isHTTPS(endpoint string) bool { return strings.HasPrefix(endpoint, "https://") }

// credential gives the token to send, "" for none.
func (f *clientFlags) credential() (string, error) {
	if f.given != "" {
		return f.given, nil
	}
	token, err := f.token()
	if err != nil && f.anonymous {
		return "", nil
	}
	return token, err
}

// withClient runs a command with a client.
func (f *clientFlags) withClient(do func(c *client.Client) error) error {
	c, err := f.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// keyFlag says how keys are written on the command line.
type keyFlag string

func (k *keyFlag) addTo(cmd *cobra.Command) {
	cmd.Flags().Var(k, "key-encoding", "how keys are written on the command line")
	*k = "text"
	_ = cmd.RegisterFlagCompletionFunc("key-encoding", cobra.FixedCompletions([]string{"text", "hex", "base64url"}, cobra.ShellCompDirectiveNoFileComp))
}

// String, Set and Type make a keyFlag a flag.
func (k *keyFlag) String() string { return string(*k) }

// Set checks the value.
func (k *keyFlag) Set(s string) error {
	switch s {
	case "text", "hex", "base64url":
		*k = keyFlag(s)
		return nil
	}
	return fmt.Errorf("want text, hex or base64url")
}

// Type names the flag's values in help texts.
func (k *keyFlag) Type() string { return "text|hex|base64url" }

func (k *keyFlag) decode(arg string) (string, error) {
	var b []byte
	var err error
	switch *k {
	case "hex":
		b, err = hex.DecodeString(arg)
	case "base64url":
		b, err = base64.RawURLEncoding.DecodeString(arg)
	default:
		return arg, nil
	}
	if err != nil {
		return "", usagef("key %q: %w", arg, err)
	}
	return string(b), nil
}

// decodeAll decodes several words in place; empty ones stay.
func (k *keyFlag) decodeAll(words ...*string) error {
	for _, w := range words {
		decoded, err := k.decode(*w)
		if err != nil {
			return err
		}
		*w = decoded
	}
	return nil
}

// readFlags are the flags of reads.
type readFlags struct {
	stale        bool
	maxStaleness time.Duration
	at           versionFlag
	minVersion   versionFlag
}

func (f *readFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.stale, "stale", false, "let any replica answer from what it has")
	flags.DurationVar(&f.maxStaleness, "max-staleness", 0, "with --stale: refuse replicas that lag behind by more")
	flags.Var(&f.at, "at", "read what was there at this version")
	flags.Var(&f.minVersion, "min-version", "wait for a replica that has this version")
}

func (f *readFlags) options() (client.ReadOptions, error) {
	o := client.ReadOptions{At: kv.Version(f.at), MinVersion: kv.Version(f.minVersion), MaxStaleness: f.maxStaleness}
	if f.stale {
		o.Consistency = kv.Stale
	} else if f.maxStaleness != 0 {
		return o, usagef("--max-staleness goes with --stale")
	}
	return o, nil
}

// versionFlag is a version on the command line, 0 if not given.
type versionFlag kv.Version

// String, Set and Type make a versionFlag a flag.
func (v *versionFlag) String() string { return versionShown(kv.Version(*v)) }

// Set reads a version, with or without the quotes of an entity tag.
func (v *versionFlag) Set(s string) error {
	if len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	parsed, err := kv.ParseVersion(s)
	*v = versionFlag(parsed)
	return err
}

// Type names the flag's values in help texts.
func (v *versionFlag) Type() string { return "version" }
