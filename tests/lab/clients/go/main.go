// Command client does one thing on a cluster, as any program made with client-go would: with the kubeconfig that kubectl would
// take, and nothing added.
//
// It prints what it got and exits 0, or prints what the server said and exits 1. watch goes on until it is interrupted.
package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, words []string) error {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return errors.New("usage: client ACTION ARGUMENT…")
	}
	action, arguments := words[0], words[1:]
	known, ok := actions[action]
	if !ok || len(arguments) < known.arguments {
		return fmt.Errorf("no such action, or too few arguments: %q", words)
	}
	return known.act(ctx, cluster{config, client}, arguments)
}

type cluster struct {
	config *rest.Config
	*kubernetes.Clientset
}

var actions = map[string]struct {
	arguments int
	act       func(context.Context, cluster, []string) error
}{
	"get":               {2, get},
	"list":              {0, list},
	"watch":             {1, watch},
	"exec":              {3, exec},
	"port-forward":      {4, portForward},
	"logs":              {2, logs},
	"delete":            {2, remove},
	"apply":             {3, apply},
	"patch":             {3, patch},
	"scale":             {3, scale},
	"delete-collection": {1, removeAll},
	"evict":             {2, evict},
	"inform":            {1, inform},
}

// get NAMESPACE SECRET
func get(ctx context.Context, c cluster, arguments []string) error {
	secret, err := c.CoreV1().Secrets(arguments[0]).Get(ctx, arguments[1], metav1.GetOptions{})
	if err != nil {
		return err
	}
	fmt.Println(base64.StdEncoding.EncodeToString(secret.Data["password"]))
	return nil
}

// list: the secrets of all namespaces
func list(ctx context.Context, c cluster, _ []string) error {
	secrets, err := c.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, secret := range secrets.Items {
		fmt.Println(secret.Namespace, secret.Name)
	}
	return nil
}

// watch NAMESPACE: its secrets
func watch(ctx context.Context, c cluster, arguments []string) error {
	events, err := c.CoreV1().Secrets(arguments[0]).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		if secret, ok := event.Object.(*corev1.Secret); ok {
			fmt.Println(event.Type, secret.Name)
		}
	}
	return nil
}

// inform NAMESPACE: its configmaps, as tools do that show a cluster all day: by an informer, and by asking every second too.
// It goes on whatever happens, until it is interrupted.
func inform(ctx context.Context, c cluster, arguments []string) error {
	factory := informers.NewSharedInformerFactoryWithOptions(c.Clientset, 0, informers.WithNamespace(arguments[0]))
	informer := factory.Core().V1().ConfigMaps().Informer()
	failed := func(_ context.Context, _ *cache.Reflector, err error) { fmt.Println("FAILED", err) }
	if err := informer.SetWatchErrorHandlerWithContext(failed); err != nil {
		return err
	}
	added := func(object any) { fmt.Println("ADDED", object.(*corev1.ConfigMap).Name) }
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: added}); err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	for range time.Tick(time.Second) {
		if _, err := c.CoreV1().Pods(arguments[0]).List(ctx, metav1.ListOptions{}); err != nil {
			fmt.Println("FAILED", err)
		} else {
			fmt.Println("LISTED")
		}
	}
	return nil
}

// exec NAMESPACE POD WORD…
func exec(ctx context.Context, c cluster, arguments []string) error {
	request := pod(c, arguments, "exec").VersionedParams(&corev1.PodExecOptions{
		Command: arguments[2:], Stdout: true, Stderr: true,
	}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, request.URL().String())
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: os.Stdout, Stderr: os.Stderr})
}

// port-forward NAMESPACE POD PORT TEXT: what the port answers to the text, as many bytes as the text has
func portForward(_ context.Context, c cluster, arguments []string) error {
	request := pod(c, arguments, "portforward")
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, request.URL())
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	defer close(stop)
	addresses, ports := []string{"127.0.0.1"}, []string{"0:" + arguments[2]}
	forwarder, err := portforward.NewOnAddresses(dialer, addresses, ports, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case err := <-ended:
		return err
	case <-ready:
	}
	forwarded, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	answer, err := exchange(forwarded[0].Local, arguments[3])
	if err != nil {
		return err
	}
	fmt.Println(answer)
	return nil
}

func exchange(port uint16, text string) (string, error) {
	connection, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if _, err := io.WriteString(connection, text); err != nil {
		return "", err
	}
	answer := make([]byte, len(text))
	_, err = io.ReadFull(connection, answer)
	return string(answer), err
}

// logs NAMESPACE POD
func logs(ctx context.Context, c cluster, arguments []string) error {
	log, err := c.CoreV1().Pods(arguments[0]).GetLogs(arguments[1], &corev1.PodLogOptions{}).Stream(ctx)
	if err != nil {
		return err
	}
	defer log.Close()
	_, err = io.Copy(os.Stdout, log)
	return err
}

// delete NAMESPACE DEPLOYMENT
func remove(ctx context.Context, c cluster, arguments []string) error {
	return c.AppsV1().Deployments(arguments[0]).Delete(ctx, arguments[1], metav1.DeleteOptions{})
}

// apply NAMESPACE DEPLOYMENT FILE: the manifest, on the server's side
func apply(ctx context.Context, c cluster, arguments []string) error {
	manifest, err := os.ReadFile(arguments[2])
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: "client"}
	_, err = c.AppsV1().Deployments(arguments[0]).Patch(ctx, arguments[1], types.ApplyPatchType, manifest, options)
	return err
}

// patch NAMESPACE DEPLOYMENT JSON: a merge patch
func patch(ctx context.Context, c cluster, arguments []string) error {
	_, err := c.AppsV1().Deployments(arguments[0]).
		Patch(ctx, arguments[1], types.MergePatchType, []byte(arguments[2]), metav1.PatchOptions{})
	return err
}

// scale NAMESPACE DEPLOYMENT REPLICAS
func scale(ctx context.Context, c cluster, arguments []string) error {
	replicas, err := strconv.ParseInt(arguments[2], 10, 32)
	if err != nil {
		return err
	}
	deployments := c.AppsV1().Deployments(arguments[0])
	current, err := deployments.GetScale(ctx, arguments[1], metav1.GetOptions{})
	if err != nil {
		return err
	}
	current.Spec.Replicas = int32(replicas)
	_, err = deployments.UpdateScale(ctx, arguments[1], current, metav1.UpdateOptions{})
	return err
}

// delete-collection NAMESPACE: its deployments
func removeAll(ctx context.Context, c cluster, arguments []string) error {
	return c.AppsV1().Deployments(arguments[0]).
		DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
}

// evict NAMESPACE POD
func evict(ctx context.Context, c cluster, arguments []string) error {
	eviction := policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: arguments[0], Name: arguments[1]}}
	return c.PolicyV1().Evictions(arguments[0]).Evict(ctx, &eviction)
}

func pod(c cluster, arguments []string, subresource string) *rest.Request {
	return c.CoreV1().RESTClient().Post().
		Resource("pods").Namespace(arguments[0]).Name(arguments[1]).SubResource(subresource)
}
