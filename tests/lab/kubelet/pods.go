package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"time"
)

// The pods that are bound to a node. They run from the moment that they are, and are gone as soon as somebody deletes them.
type pods struct {
	apiServer string
	client    *http.Client

	mutex sync.Mutex
	known map[string]pod
}

// What a kubelet of this kind wants to know of a pod.
type pod struct {
	Metadata struct {
		Namespace         string  `json:"namespace"`
		Name              string  `json:"name"`
		UID               string  `json:"uid"`
		DeletionTimestamp *string `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		Containers []struct {
			Name    string   `json:"name"`
			Image   string   `json:"image"`
			Command []string `json:"command"`
		} `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

func newPods(apiServer string, config *tls.Config) *pods {
	return &pods{
		apiServer: apiServer,
		client:    &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}},
		known:     map[string]pod{},
	}
}

// The command of a container.
func (p *pods) container(namespace, name, container string) ([]string, bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for _, candidate := range p.known[namespace+"/"+name].Spec.Containers {
		if candidate.Name == container {
			return candidate.Command, true
		}
	}
	return nil, false
}

// Watches pods for ever.
func (p *pods) run() {
	for {
		err := p.watch()
		log.Printf("watching pods again: %v", err)
		time.Sleep(tick)
	}
}

// Without a resource version a watch begins with all that there are.
func (p *pods) watch() error {
	response, err := p.client.Get(p.apiServer + "/api/v1/pods?watch=true&fieldSelector=spec.nodeName!=")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", response.Status)
	}
	events := json.NewDecoder(response.Body)
	for {
		var event struct {
			Type   string `json:"type"`
			Object pod    `json:"object"`
		}
		if err := events.Decode(&event); err != nil {
			return err
		}
		switch event.Type {
		case "ADDED", "MODIFIED":
			p.see(event.Object)
		case "DELETED":
			p.forget(event.Object)
		case "ERROR":
			return fmt.Errorf("the API server ended the watch")
		}
	}
}

func (p *pods) see(pod pod) {
	p.mutex.Lock()
	p.known[pod.key()] = pod
	p.mutex.Unlock()
	var err error
	switch {
	case pod.Metadata.DeletionTimestamp != nil:
		err = p.send(http.MethodDelete, pod.path(), "application/json", map[string]any{
			"gracePeriodSeconds": 0,
			"preconditions":      map[string]any{"uid": pod.Metadata.UID},
		})
	case pod.Status.Phase == "" || pod.Status.Phase == "Pending":
		err = p.send(http.MethodPatch, pod.path()+"/status", "application/strategic-merge-patch+json", pod.running())
	}
	if err != nil {
		log.Printf("%s: %v", pod.key(), err)
	}
}

func (p *pods) forget(pod pod) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	delete(p.known, pod.key())
}

func (p *pods) send(method, path, kind string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(method, p.apiServer+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", kind)
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	// Somebody else may have been quicker.
	if response.StatusCode >= 300 && response.StatusCode != http.StatusNotFound && response.StatusCode != http.StatusConflict {
		answer, _ := io.ReadAll(response.Body)
		return fmt.Errorf("%s %s: %s", method, path, answer)
	}
	return nil
}

func (pod pod) key() string { return pod.Metadata.Namespace + "/" + pod.Metadata.Name }
func (pod pod) path() string {
	return "/api/v1/namespaces/" + pod.Metadata.Namespace + "/pods/" + pod.Metadata.Name
}

// The status of a pod all of whose containers run.
func (pod pod) running() map[string]any {
	now := time.Now().UTC().Format(time.RFC3339)
	var containers []map[string]any
	for _, container := range pod.Spec.Containers {
		containers = append(containers, map[string]any{
			"name": container.Name, "image": container.Image, "imageID": container.Image, "containerID": "lab://" + pod.Metadata.UID,
			"ready": true, "started": true, "restartCount": 0, "state": map[string]any{"running": map[string]any{"startedAt": now}},
		})
	}
	return map[string]any{
		"metadata": map[string]any{"uid": pod.Metadata.UID},
		"status": map[string]any{
			"phase": "Running", "startTime": now, "hostIP": "127.0.0.1", "podIP": "127.0.0.1",
			"podIPs":            []map[string]any{{"ip": "127.0.0.1"}},
			"conditions":        []map[string]any{{"type": "Ready", "status": "True", "lastTransitionTime": now}},
			"containerStatuses": containers,
		},
	}
}
