//go:build tools

// Package helm4 pins the second helm that the tests run.
package helm4

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
