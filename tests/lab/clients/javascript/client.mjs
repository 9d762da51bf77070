// Does one thing on a cluster, as any program made with the JavaScript client would: with the kubeconfig that kubectl would
// take, and nothing added.
//
// It prints what it got and exits 0, or prints what the server said and exits 1. watch goes on until it is interrupted.

import { readFile } from 'node:fs/promises';
import { PassThrough } from 'node:stream';
import * as k8s from '@kubernetes/client-node';

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);

const actions = {
  async get(namespace, name) {
    const secret = await core.readNamespacedSecret({ namespace, name });
    console.log(secret.data.password);
  },

  async list() {
    const { items } = await core.listSecretForAllNamespaces();
    for (const { metadata } of items) console.log(metadata.namespace, metadata.name);
  },

  async watch(namespace) {
    await new Promise((resolve, reject) => {
      const seen = (type, secret) => console.log(type, secret.metadata.name);
      const done = (error) => (error ? reject(error) : resolve());
      new k8s.Watch(config).watch(`/api/v1/namespaces/${namespace}/secrets`, {}, seen, done);
    });
  },

  async exec(namespace, pod, ...command) {
    const { status, message } = await new Promise((resolve, reject) => {
      new k8s.Exec(config)
        .exec(namespace, pod, 'app', command, process.stdout, process.stderr, null, false, resolve)
        .catch(reject);
    });
    if (status !== 'Success') throw new Error(message);
  },

  // What the port answers to the text, as many bytes as the text has.
  async 'port-forward'(namespace, pod, port, text) {
    const [input, output] = [new PassThrough(), new PassThrough()];
    const connection = await new k8s.PortForward(config).portForward(namespace, pod, [Number(port)], output, null, input);
    input.write(text);
    let answer = '';
    for await (const part of output) {
      answer += part;
      if (answer.length >= text.length) break;
    }
    console.log(answer);
    connection.close();
  },

  async logs(namespace, name) {
    console.log(await core.readNamespacedPodLog({ namespace, name }));
  },

  async delete(namespace, name) {
    await apps.deleteNamespacedDeployment({ namespace, name });
  },

  async apply(namespace, name, file) {
    const manifest = JSON.parse(await readFile(file, 'utf8'));
    await k8s.KubernetesObjectApi.makeApiClient(config).patch(
      manifest,
      undefined,
      undefined,
      'client',
      undefined,
      k8s.PatchStrategy.ServerSideApply,
    );
  },

  async patch(namespace, name, text) {
    const asMerge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
    await apps.patchNamespacedDeployment({ namespace, name, body: JSON.parse(text) }, asMerge);
  },

  async scale(namespace, name, replicas) {
    const body = await apps.readNamespacedDeploymentScale({ namespace, name });
    body.spec.replicas = Number(replicas);
    await apps.replaceNamespacedDeploymentScale({ namespace, name, body });
  },

  async 'delete-collection'(namespace) {
    await apps.deleteCollectionNamespacedDeployment({ namespace });
  },

  async evict(namespace, name) {
    await core.createNamespacedPodEviction({ namespace, name, body: { metadata: { namespace, name } } });
  },
};

const [action, ...words] = process.argv.slice(2);
try {
  await actions[action](...words);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
