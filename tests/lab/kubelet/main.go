// Command kubelet is what the lab has in place of a node: the API server's view of a kubelet, without containers behind it.
//
// The streams are real: exec, attach and port-forward are served by the code that container runtimes serve them with
// (k8s.io/cri-streaming: SPDY/3.1 and WebSockets), logs are chunked HTTP. What runs "in" a pod are a few harmless words that
// this program knows itself (container.go), never a program of the machine.
//
// It serves every node and every pod that is bound to one.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// Longer than any test, so that only the two ends of a stream end it.
const idleLimit = 4 * time.Hour

func main() {
	var files certificates
	flag.StringVar(&files.certificate, "tls-cert-file", "", "this server's certificate")
	flag.StringVar(&files.key, "tls-private-key-file", "", "its key")
	flag.StringVar(&files.clientCA, "client-ca-file", "", "whoever has a certificate of this authority may connect")
	flag.StringVar(&files.clientCertificate, "client-certificate", "", "shown to the API server")
	flag.StringVar(&files.clientKey, "client-key", "", "its key")
	flag.StringVar(&files.ca, "certificate-authority", "", "of the API server")
	apiServer := flag.String("api-server", "", "address of the API server")
	portFile := flag.String("port-file", "", "gets the port number when everything is ready")
	flag.Parse()
	if err := serve(files, *apiServer, *portFile); err != nil {
		log.Fatal(err)
	}
}

type certificates struct {
	certificate, key, clientCA, clientCertificate, clientKey, ca string
}

func serve(files certificates, apiServer, portFile string) error {
	server, err := tls.LoadX509KeyPair(files.certificate, files.key)
	if err != nil {
		return err
	}
	clients, err := pool(files.clientCA)
	if err != nil {
		return err
	}
	me, err := tls.LoadX509KeyPair(files.clientCertificate, files.clientKey)
	if err != nil {
		return err
	}
	servers, err := pool(files.ca)
	if err != nil {
		return err
	}
	pods := newPods(apiServer, &tls.Config{Certificates: []tls.Certificate{me}, RootCAs: servers})
	go pods.run()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	// Whoever reads it sees either nothing or all of it.
	if err := os.WriteFile(portFile+".new", []byte(port), 0o600); err != nil {
		return err
	}
	if err := os.Rename(portFile+".new", portFile); err != nil {
		return err
	}
	// Upgrades need HTTP/1.1.
	return http.Serve(tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{server},
		ClientCAs:    clients,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}), routes(pods))
}

func pool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate", file)
	}
	return pool, nil
}

// The paths of a kubelet that the API server asks for.
func routes(pods *pods) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		container, ok := pods.container(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"))
		if !ok {
			http.Error(w, "no such container", http.StatusNotFound)
			return
		}
		writeLog(r.Context(), w, container, r.URL.Query().Get("follow") == "true")
	})
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		options, err := remotecommand.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		remotecommand.ServeExec(w, r, container{}, r.PathValue("pod"), "", r.PathValue("container"), r.URL.Query()["command"], options,
			idleLimit, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
	})
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		options, err := remotecommand.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		remotecommand.ServeAttach(w, r, container{}, r.PathValue("pod"), "", r.PathValue("container"), options,
			idleLimit, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
	})
	mux.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		options, err := portforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(w, r, container{}, r.PathValue("pod"), "", options,
			idleLimit, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
	})
	return mux
}
