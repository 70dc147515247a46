package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quorate-db/quorate/internal/pki"
)

// secretEnv holds a cluster secret by value. It is no flag, because whoever lists
// processes sees those.
const secretEnv = envPrefix + "CLUSTER_SECRET"

// secretsFromEnv gives the secrets in the environment, none if the variable is empty.
func secretsFromEnv(env lookupEnv) ([]pki.Secret, error) {
	text, _ := env(secretEnv)
	if text == "" {
		return nil, nil
	}
	secrets, err := pki.ParseSecrets(strings.ReplaceAll(text, ",", "\n"))
	if err != nil {
		return nil, fmt.Errorf("environment variable %s: %w", secretEnv, err)
	}
	return secrets, nil
}

func secretCommand(lookupEnv) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Make the secret that all nodes of a cluster share",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(secretNewCommand(), secretIDCommand())
	return cmd
}

func secretNewCommand() *cobra.Command {
	var out string
	var keep bool
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Make a cluster secret",
		Long: `Make a cluster secret and print it, or write it to a file that only you may read.

Copy it to every machine and start the nodes with --cluster-secret-file. Whoever
has it can be a node of the cluster. To replace it without a stop, see
docs/SECURITY.md.`,
		Example: "  quorate secret new --out cluster.secret",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := pki.NewSecret()
			if out == "" {
				if keep {
					return usagef("--keep goes with --out")
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), s.Reveal())
				return err
			}
			err := pki.WriteSecret(out, s)
			if errors.Is(err, os.ErrExist) {
				return keepSecret(cmd, out, keep)
			}
			if err == nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s holds cluster secret %s\n", out, s.ID())
			}
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file to write, with mode 0600; it must not exist")
	cmd.Flags().BoolVar(&keep, "keep", false, "with --out: if there is a file with a secret already, that is fine")
	return cmd
}

// keepSecret judges a file that was there already.
func keepSecret(cmd *cobra.Command, path string, keep bool) error {
	if !keep {
		return fmt.Errorf("%s exists already; nothing was written", path)
	}
	secrets, err := pki.ReadSecrets(path)
	if err == nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s holds cluster secret %s already\n", path, secrets[0].ID())
	}
	return err
}

func secretIDCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "id FILE",
		Short: "Print the ids of the secrets in a file, as logs name them",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			secrets, err := pki.ReadSecrets(args[0])
			if err != nil {
				return err
			}
			for _, s := range secrets {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), s.ID()); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// authoritiesFromEnv gives, as PEM, the authorities of the secrets that the
// environment holds or names a file of; nil if it does neither.
func authoritiesFromEnv(env lookupEnv) ([]byte, error) {
	path, _ := env(secretEnv + "_FILE")
	return authorities(env, path)
}

func authorities(env lookupEnv, path string) ([]byte, error) {
	secrets, err := secretsFromEnv(env)
	if err == nil && path != "" {
		secrets, err = pki.ReadSecrets(path)
	}
	if err != nil || len(secrets) == 0 {
		return nil, err
	}
	ring, err := pki.NewKeyring(secrets, nil)
	if err != nil {
		return nil, err
	}
	return ring.PEM(), nil
}

func certCommand(env lookupEnv) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Print the cluster's authority, for clients to trust",
		Long: `Print the certificate of the cluster's authority, derived from the cluster secret, as
PEM. It is no secret. Clients of nodes that run with --tls trust it: --ca-file here,
--cacert in curl. With several secrets in the file all of their authorities are
printed.`,
		Example: "  quorate cert --cluster-secret-file cluster.secret > ca.pem\n  curl --cacert ca.pem https://127.0.0.1:7001/v1/cluster",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pem, err := authorities(env, path)
			if err != nil {
				return err
			}
			if pem == nil {
				return usagef("--cluster-secret-file: which secret?")
			}
			_, err = cmd.OutOrStdout().Write(pem)
			return err
		},
	}
	cmd.Flags().StringVar(&path, "cluster-secret-file", "", "file with the cluster secret (default: the secret in QUORATE_CLUSTER_SECRET)")
	return cmd
}
