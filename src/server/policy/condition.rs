//! CEL: conditions of rules, and the claim expressions of the configuration.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, ExecutionError, Program, Value};
use regex::Regex;
use serde_json::value::RawValue;

use super::Request;
use crate::server::document::nearest;

/// Variables that a condition may use.
const VARIABLES: [&str; 4] = ["user", "action", "object", "oldObject"];

/// Functions of the standard library and of the strings extension. A call of any other name fails whenever it is
/// evaluated, which would make its rule protect everything it looks at: better said when the policy is read.
const FUNCTIONS: &[&str] = &[
    "bool",
    "bytes",
    "charAt",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "format",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "hasValue",
    "indexOf",
    "int",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "matches",
    "max",
    "min",
    "none",
    "of",
    "ofNonZeroValue",
    "optFlatMap",
    "optMap",
    "or",
    "orValue",
    "quote",
    "replace",
    "reverse",
    "size",
    "split",
    "startsWith",
    "string",
    "substring",
    "timestamp",
    "trim",
    "type",
    "uint",
    "upperAscii",
    "value",
];

/// Longer than any condition that a person can check, and short enough for the parser.
const MAX_LENGTH: usize = 8 * 1024;
/// The parser goes down a dozen calls for each bracket and each `?`, and has no bound of its own that comes in time.
const MAX_NESTING: usize = 32;

/// The standard library with the strings extension, as the API server has it.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    // The only failure is a clash of names, which is the same in every run.
    env.add_extension(cel::extensions::strings).expect("the strings extension clashes with the standard library");
    Arc::new(env)
});

/// Where a macro names its variable. The parser counts those among the references of the whole program.
static BINDINGS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\.(?:all|exists|exists_one|map|filter|optMap|optFlatMap)\(\s*([A-Za-z_]\w*)\s*,")
        .expect("a constant pattern")
});

/// A compiled condition.
#[derive(Debug)]
pub(super) struct Condition(Program);

impl Condition {
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        compile(source, &VARIABLES).map(Self)
    }

    /// Whether the condition is met. An error is for the caller to take as met.
    pub(super) fn is_met(&self, facts: &Facts<'_>) -> Result<bool, String> {
        let context = facts.context()?;
        // The interpreter has places that panic on programs it should never have made.
        match catch_unwind(AssertUnwindSafe(|| self.0.execute(context))) {
            Ok(Ok(Value::Bool(met))) => Ok(met),
            Ok(Ok(other)) => Err(format!("the condition is a {} and not true or false", other.type_of())),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => Err("the CEL interpreter failed".to_owned()),
        }
    }
}

/// The values of an error are not repeated: an object may hold a secret.
fn explain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::UndeclaredReference(name) => {
            format!("`{name}` is not known here (the objects are only known for writes)")
        }
        ExecutionError::NoSuchOverload(error) => format!("{error}"),
        ExecutionError::FunctionError { function, .. } => format!("`{function}` failed"),
        ExecutionError::IndexOutOfBounds(_) => "index out of bounds".to_owned(),
        _ => "a value is not of the type the condition takes it for".to_owned(),
    }
}

/// Compiles a CEL program over `variables`.
pub fn compile(source: &str, variables: &[&str]) -> Result<Program, String> {
    if source.len() > MAX_LENGTH {
        return Err(format!("{} bytes of CEL are too many, {MAX_LENGTH} is the most", source.len()));
    }
    if nesting(source) > MAX_NESTING {
        return Err(format!("not a CEL expression that can be checked: it nests more than {MAX_NESTING} deep"));
    }
    let program = catch_unwind(|| ENV.compile(source))
        .map_err(|_| "not a CEL expression: the parser failed on it".to_owned())?
        .map_err(|errors| {
            let first = errors.errors.first();
            let (line, column) = first.map_or((1, 1), |error| error.pos);
            let message = first.map_or("unknown error", |error| error.msg.as_str());
            format!("not a CEL expression: {message} (line {line}, column {column} of the expression)")
        })?;
    let references = program.references();
    let bound: Vec<_> =
        BINDINGS.captures_iter(source).filter_map(|found| found.get(1)).map(|name| name.as_str()).collect();
    let mut unknown: Vec<_> = references
        .variables()
        .into_iter()
        .filter(|name| {
            !variables.contains(name) && !bound.contains(name) && !name.starts_with('@') && !TYPES.contains(name)
        })
        .map(|name| (name, "variable", nearest(name, variables.iter().copied()), variables.join(", ")))
        .collect();
    unknown.extend(
        references
            .functions()
            .into_iter()
            .filter(|name| name.starts_with(|char: char| char.is_ascii_alphabetic()) && !FUNCTIONS.contains(name))
            .map(|name| (name, "function", nearest(name, FUNCTIONS.iter().copied()), "those of CEL".to_owned())),
    );
    unknown.sort_unstable();
    match unknown.into_iter().next() {
        None => Ok(program),
        Some((name, kind, Some(near), _)) => Err(format!("unknown {kind} `{name}`: did you mean `{near}`?")),
        Some((name, kind, None, all)) => Err(format!("unknown {kind} `{name}`: there are {all}")),
    }
}

/// An upper bound of how deep `source` nests.
fn nesting(source: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    for char in source.chars() {
        match char {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest + source.matches('?').count()
}

/// Names of types are variables to the parser.
const TYPES: [&str; 15] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
    "dyn",
    "google",
    "optional",
    "optional_type",
    "strings",
];

/// A context for programs made by [`compile`], without variables.
pub fn context<'v>() -> Context<'static, 'v> {
    Context::with_env(Arc::clone(&ENV))
}

/// What a condition can know of one request, worked out when the first condition asks.
pub(super) struct Facts<'a> {
    request: &'a Request<'a>,
    context: OnceCell<Result<Context<'static, 'static>, String>>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(request: &'a Request<'a>) -> Self {
        Self { request, context: OnceCell::new() }
    }

    fn context(&self) -> Result<&Context<'static, 'static>, String> {
        self.context.get_or_init(|| self.build()).as_ref().map_err(Clone::clone)
    }

    fn build(&self) -> Result<Context<'static, 'static>, String> {
        let Request { user, groups, extra, action, object, old_object } = *self.request;
        let mut variables = context();
        let extra = extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone())));
        variables.add_variable_from_value(
            "user",
            HashMap::from([
                ("username", Value::from(user)),
                ("groups", Value::from(groups.to_vec())),
                ("extra", Value::from(extra.collect::<HashMap<_, _>>())),
            ]),
        );
        let text = |part: &Option<String>| Value::from(part.as_deref().unwrap_or_default());
        variables.add_variable_from_value(
            "action",
            HashMap::from([
                ("verb", Value::from(action.verb.as_str())),
                ("group", Value::from(action.group.as_str())),
                ("resource", Value::from(action.resource.as_str())),
                ("subresource", text(&action.subresource)),
                ("namespace", text(&action.namespace)),
                ("name", text(&action.name)),
                ("path", text(&action.path)),
            ]),
        );
        // Admission shows at least one of the objects, and then the other one is null, as in the API server's own CEL.
        // Without either, this is a read or an announcement: nothing is known of the object, so neither is declared
        // and a condition that needs one fails, which protects.
        if object.is_some() || old_object.is_some() {
            variables.add_variable_from_value("object", parsed(object)?);
            variables.add_variable_from_value("oldObject", parsed(old_object)?);
        }
        Ok(variables)
    }
}

fn parsed(object: Option<&RawValue>) -> Result<Value, String> {
    let Some(object) = object else { return Ok(Value::Null) };
    let json = serde_json::from_str(object.get()).map_err(|_| "the object is not the JSON it should be".to_owned())?;
    Ok(value_of(json))
}

/// JSON as CEL sees it in Kubernetes: whole numbers are `int`, and those that are too large for it `double`
/// (k8s.io/apimachinery, `pkg/util/json`).
pub fn value_of(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(value) => Value::Int(value),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text),
        serde_json::Value::Array(items) => Value::from(items.into_iter().map(value_of).collect::<Vec<_>>()),
        serde_json::Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, value_of(value)));
            Value::from(fields.collect::<HashMap<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::action::Action;
    use crate::wire::review::Extra;

    fn evaluate(source: &str, object: Option<&str>, old_object: Option<&str>) -> Result<bool, String> {
        let action = Action {
            namespace: Some("prod".into()),
            name: Some("web".into()),
            ..Action::new("patch", "apps", "deployments")
        };
        let extra = Extra::from([("example.com/team".to_owned(), vec!["pay".to_owned()])]);
        let raw = |text: Option<&str>| {
            text.map(|text| to_raw_value(&serde_json::from_str::<serde_json::Value>(text).unwrap()).unwrap())
        };
        let (object, old_object) = (raw(object), raw(old_object));
        let request = Request {
            user: "alice",
            groups: &["dev".to_owned(), "ops".to_owned()],
            extra: &extra,
            action: &action,
            object: object.as_deref(),
            old_object: old_object.as_deref(),
        };
        Condition::compile(source).unwrap().is_met(&Facts::of(&request))
    }

    #[test]
    fn conditions_see_user_action_and_objects() {
        let object = Some(
            r#"{"spec":{"replicas":0,"ratio":1.5,"huge":18446744073709551615},"metadata":{"labels":{"tier":"gold"}}}"#,
        );
        let old = Some(r#"{"spec":{"replicas":3}}"#);
        for (source, met) in [
            ("user.username == 'alice' && 'ops' in user.groups", true),
            ("user.extra['example.com/team'].exists(team, team == 'pay')", true),
            ("action.verb == 'patch' && action.resource == 'deployments' && action.namespace.startsWith('pr')", true),
            ("action.subresource == ''", true),
            ("object.spec.replicas == 0 && oldObject.spec.replicas > 0", true),
            ("object.spec.replicas - oldObject.spec.replicas < -2", true),
            ("object.spec.ratio > 1.0", true),
            ("object.spec.huge > 1.0 && type(object.spec.huge) == double", true),
            ("has(object.metadata.labels.tier) && object.metadata.labels.tier.upperAscii() == 'GOLD'", true),
            ("has(oldObject.metadata)", false),
            ("object.metadata.labels.exists(key, key.matches('^ti'))", true),
            ("user.username in ['bob', 'carol']", false),
        ] {
            assert_eq!(evaluate(source, object, old), Ok(met), "{source}");
        }
        assert_eq!(evaluate("oldObject == null || oldObject.spec.replicas > 3", object, None), Ok(true));
    }

    #[test]
    fn what_cannot_be_evaluated_is_an_error() {
        let object = Some(r#"{"data":{"password":"hunter2"}}"#);
        for source in [
            "object.spec.replicas > 0",
            "object.data.password > 3",
            "user.username",
            "1 / 0 == 1",
            "user.groups[7] == 'x'",
            "object.data",
            "int(object.data.password) > 1",
            "timestamp(object.data.password) > timestamp('2020-01-01T00:00:00Z')",
            "user.username.matches(object.data.password + '(')",
        ] {
            let error = evaluate(source, object, None).unwrap_err();
            assert!(!error.contains("hunter2"), "{source}: {error}");
        }
    }

    #[test]
    fn without_objects_a_condition_that_needs_one_is_an_error() {
        assert!(evaluate("object == null", None, None).is_err());
        assert!(evaluate("!has(object.metadata.labels.safe)", None, None).is_err());
        assert_eq!(evaluate("user.username == 'bob' && object.spec.replicas > 0", None, None), Ok(false));
        assert_eq!(evaluate("user.username == 'alice' || object.spec.replicas > 0", None, None), Ok(true));
    }

    #[test]
    fn slips_are_found_when_the_policy_is_read() {
        for (source, told) in [
            ("user.name ==", "not a CEL expression"),
            ("users.username == 'a'", "unknown variable `users`: did you mean `user`?"),
            ("request.object.spec == 1", "unknown variable `request`: there are user, action, object, oldObject"),
            ("user.username.startWith('a')", "unknown function `startWith`: did you mean `startsWith`?"),
            ("", "not a CEL expression"),
            ("))((", "not a CEL expression"),
            (&"(".repeat(5000), "not a CEL expression"),
            (&"a".repeat(10_000), "too many"),
        ] {
            let error = Condition::compile(source).map(|_| ()).unwrap_err();
            assert!(error.contains(told), "{source}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        for source in [
            "[1, 2].exists(n, n > 1) && {'a': 1}.all(k, k == 'a') && [1].map(x, x * 2).filter(y, y > 0).size() > 0",
            "has(object.spec) ? object.spec.replicas > 1 : true",
            "object.?spec.?replicas.orValue(1) > 2",
            "type(object) == map && string(1) == '1' && !(size(user.groups) == 0) && -1 < 0",
            "[1, 2].exists_one(n, n == 1) && optional.of(1).hasValue()",
            "strings.quote(user.username) != ''",
        ] {
            Condition::compile(source).unwrap();
        }
    }
}
