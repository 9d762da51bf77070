"""Does one thing on a cluster, as any program made with the Python client would: with the kubeconfig that kubectl would
take, and nothing added.

It prints what it got and exits 0, or prints what the server said and exits 1. watch goes on until it is interrupted.
"""

import json
import sys

from kubernetes import client, config, utils, watch
from kubernetes.stream import portforward, stream


def get_secret(namespace, name):
    print(client.CoreV1Api().read_namespaced_secret(name, namespace).data["password"])


def list_secrets():
    for secret in client.CoreV1Api().list_secret_for_all_namespaces().items:
        print(secret.metadata.namespace, secret.metadata.name)


def watch_secrets(namespace):
    for event in watch.Watch().stream(client.CoreV1Api().list_namespaced_secret, namespace):
        print(event["type"], event["object"].metadata.name, flush=True)


def exec_in_pod(namespace, pod, *command):
    api = client.CoreV1Api()
    print(stream(api.connect_get_namespaced_pod_exec, pod, namespace, command=command, stdout=True, stderr=True))


def port_forward(namespace, pod, port, text):
    """What the port answers to the text, as many bytes as the text has."""
    api = client.CoreV1Api()
    forward = portforward(api.connect_get_namespaced_pod_portforward, pod, namespace, ports=port)
    connection = forward.socket(int(port))
    connection.sendall(text.encode())
    with connection.makefile("rb") as answer:
        print(answer.read(len(text.encode())).decode())
    connection.close()


def logs(namespace, pod):
    print(client.CoreV1Api().read_namespaced_pod_log(pod, namespace))


def delete(namespace, deployment):
    client.AppsV1Api().delete_namespaced_deployment(deployment, namespace)


def apply(namespace, _deployment, file):
    utils.create_from_yaml(client.ApiClient(), file, namespace=namespace, apply=True)


def patch(namespace, deployment, text):
    client.AppsV1Api().patch_namespaced_deployment(deployment, namespace, json.loads(text))


def scale(namespace, deployment, replicas):
    body = {"spec": {"replicas": int(replicas)}}
    client.AppsV1Api().patch_namespaced_deployment_scale(deployment, namespace, body)


def delete_collection(namespace):
    client.AppsV1Api().delete_collection_namespaced_deployment(namespace)


def evict(namespace, pod):
    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(namespace=namespace, name=pod))
    client.CoreV1Api().create_namespaced_pod_eviction(pod, namespace, eviction)


ACTIONS = {
    "get": get_secret,
    "list": list_secrets,
    "watch": watch_secrets,
    "exec": exec_in_pod,
    "port-forward": port_forward,
    "logs": logs,
    "delete": delete,
    "apply": apply,
    "patch": patch,
    "scale": scale,
    "delete-collection": delete_collection,
    "evict": evict,
}


def main():
    config.load_kube_config()
    action, *arguments = sys.argv[1:]
    try:
        ACTIONS[action](*arguments)
    except Exception as error:  # whatever the library makes of a refusal
        sys.exit(f"{type(error).__name__}: {error}")


main()
