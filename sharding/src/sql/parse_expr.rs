//! Expressions: the parser's nodes -> our tree.
//!
//! Every kind has its own small function, so that one level of nesting costs little stack.

use pg_raw_parse::const_val::ConstValue;
use pg_raw_parse::raw::A_Expr_Kind as Kind;
use pg_raw_parse::raw::{BoolExprType, NullTestType, SQLValueFunctionOp, SubLinkType};
use pg_raw_parse::{Node, nodes};

use super::parse::{Builder, Result, strings, too_deep};
use super::shape::LiteralKind;
use super::tree::{
    At, Cast, Const, Expr, Func, In, Op, Other, Quantified, Slot, SortItem, Sublink, SublinkKind, TypeName, Value,
    Window,
};

/// From this length on a chain of operators is kept flat.
const CHAIN_MIN: usize = 16;

/// Longest chain of operators.
const CHAIN_MAX: usize = 10_000;

impl Builder<'_> {
    pub(super) fn expr(&mut self, node: Node<'_>) -> Result<Expr> {
        self.enter()?;
        let expr = self.expr_of(node);
        self.leave();
        expr
    }

    fn expr_of(&mut self, node: Node<'_>) -> Result<Expr> {
        match node {
            Node::ColumnRef(column) => Ok(column_ref(column)),
            Node::A_Const(constant) => Ok(Expr::Const(self.constant(constant))),
            Node::ParamRef(param) => Ok(self.param(param)),
            Node::A_Expr(expr) => self.operator(expr),
            Node::BoolExpr(expr) => self.boolean(expr),
            Node::TypeCast(cast) => self.cast(cast),
            Node::FuncCall(call) => self.call(call),
            Node::SubLink(link) => self.sublink(link),
            Node::NullTest(test) => {
                Ok(Expr::IsNull(Box::new(self.expr(test.arg())?), test.nulltesttype == NullTestType::IS_NOT_NULL))
            }
            Node::A_ArrayExpr(array) => Ok(Expr::Array(self.exprs(array.elements().iter())?)),
            Node::RowExpr(row) => Ok(Expr::Row(self.exprs(row.args().iter())?)),
            Node::SQLValueFunction(function) => Ok(value_function(function)),
            Node::SetToDefault(_) => Ok(Expr::Default),
            _ => self.other(node),
        }
    }

    /// Expressions that are known only by their parts.
    fn other(&mut self, node: Node<'_>) -> Result<Expr> {
        match node {
            Node::CoalesceExpr(expr) => self.parts("coalesce", expr.args().iter()),
            Node::MinMaxExpr(expr) => self.parts(if expr.op == 0 { "greatest" } else { "least" }, expr.args().iter()),
            Node::BooleanTest(test) => self.parts(&format!("bool {}", test.booltesttype), [test.arg()].into_iter()),
            Node::CaseExpr(case) => self.case(case),
            Node::CollateClause(clause) => {
                let what = format!("collate {}", strings(clause.collname().iter()).join("."));
                self.parts(&what, [clause.arg()].into_iter())
            }
            Node::A_Indirection(expr) => self.indirection(expr),
            Node::NamedArgExpr(arg) => self.parts(&format!("=> {}", arg.name().unwrap_or("")), [arg.arg()].into_iter()),
            Node::GroupingFunc(call) => self.parts("grouping", call.args().iter()),
            Node::XmlExpr(expr) => {
                let args = expr.args().iter().chain(expr.named_args().iter().map(target_value));
                self.parts(&format!("xml {} {}", expr.op, expr.name().unwrap_or("")), args)
            }
            Node::XmlSerialize(expr) => self.parts("xmlserialize", [expr.expr()].into_iter()),
            Node::NodeList(list) => Ok(Expr::Row(self.exprs(list.iter())?)),
            Node::MultiAssignRef(assign) => {
                self.parts(&format!("column {} of", assign.colno), [assign.source()].into_iter())
            }
            Node::CurrentOfExpr(_) => self.parts("current of", std::iter::empty()),
            Node::JsonIsPredicate(test) => self.parts("is json", [test.expr()].into_iter()),
            _ => Ok(Expr::Opaque),
        }
    }

    pub(super) fn exprs<'a>(&mut self, nodes: impl Iterator<Item = Node<'a>>) -> Result<Vec<Expr>> {
        nodes.map(|node| self.expr(node)).collect()
    }

    pub(super) fn maybe_expr(&mut self, node: Node<'_>) -> Result<Option<Expr>> {
        match node {
            Node::None => Ok(None),
            _ => self.expr(node).map(Some),
        }
    }

    fn parts<'a>(&mut self, what: &str, nodes: impl Iterator<Item = Node<'a>>) -> Result<Expr> {
        Ok(Expr::Other(Box::new(Other { what: what.into(), args: self.exprs(nodes)? })))
    }

    fn case(&mut self, case: &nodes::CaseExpr) -> Result<Expr> {
        let mut args = Vec::new();
        let mut what = String::from("case");
        if let Some(arg) = self.maybe_expr(case.arg())? {
            what.push_str(" of");
            args.push(arg);
        }
        for when in case.args() {
            if let Node::CaseWhen(when) = when {
                args.push(self.expr(when.expr())?);
                args.push(self.expr(when.result())?);
            }
        }
        if let Some(default) = self.maybe_expr(case.defresult())? {
            what.push_str(" else");
            args.push(default);
        }
        Ok(Expr::Other(Box::new(Other { what: what.into(), args })))
    }

    fn indirection(&mut self, expr: &nodes::A_Indirection) -> Result<Expr> {
        let mut what = String::from("part");
        let mut args = vec![self.expr(expr.arg())?];
        for step in expr.indirection() {
            match step {
                Node::String(name) => what.extend([".", name.sval().unwrap_or("")]),
                Node::A_Star(_) => what.push_str(".*"),
                Node::A_Indices(indices) => {
                    what.push_str(if indices.is_slice { "[:]" } else { "[]" });
                    args.push(self.maybe_expr(indices.lidx())?.unwrap_or(Expr::Default));
                    args.push(self.maybe_expr(indices.uidx())?.unwrap_or(Expr::Default));
                }
                _ => return Ok(Expr::Opaque),
            }
        }
        Ok(Expr::Other(Box::new(Other { what: what.into(), args })))
    }

    fn param(&mut self, param: &nodes::ParamRef) -> Expr {
        let Some(index) = param.number.checked_sub(1).and_then(|number| u16::try_from(number).ok()) else {
            return Expr::Opaque;
        };
        self.params = self.params.max(index.saturating_add(1));
        Expr::Param(index)
    }

    fn constant(&self, constant: &nodes::A_Const) -> Const {
        let value = match constant.val() {
            None | Some(ConstValue::Unrecognized(_)) => Value::Null,
            Some(ConstValue::Integer(value)) => Value::Integer(value),
            Some(ConstValue::Float(value)) => Value::Float(value.into()),
            Some(ConstValue::Boolean(value)) => Value::Bool(value),
            Some(ConstValue::String(value)) => Value::Text(value.into()),
            Some(ConstValue::BitString(value)) => Value::Bits(value.into()),
            Some(_) => Value::Null,
        };
        let slot = Slot(self.slot(constant.location, &value));
        Const { value, slot }
    }

    /// The literal that a constant is, when it says exactly the same.
    fn slot(&self, location: i32, value: &Value) -> Option<(u16, bool)> {
        let location = u32::try_from(location).ok()?;
        let negative = *self.text.as_bytes().get(location as usize)? == b'-';
        let index = if negative {
            self.literals.partition_point(|literal| literal.start <= location)
        } else {
            self.literals.binary_search_by_key(&location, |literal| literal.start).ok()?
        };
        let literal = self.literals.get(index)?;
        let written = self.text.get(literal.start as usize..literal.end as usize)?;
        let same = match (literal.kind, value) {
            (LiteralKind::Integer, Value::Integer(value)) => {
                written.parse().is_ok_and(|written: i64| *value == if negative { -written } else { written } as i32)
            }
            (LiteralKind::Integer | LiteralKind::Number, Value::Float(value)) => {
                let value = if negative { value.strip_prefix('-')? } else { value };
                value == written
            }
            (LiteralKind::Text, Value::Text(value)) => !negative && is_quoted(written, value),
            _ => false,
        };
        same.then_some((u16::try_from(index).ok()?, negative))
    }

    fn operator(&mut self, expr: &nodes::A_Expr) -> Result<Expr> {
        match expr.kind {
            Kind::AEXPR_IN => self.in_list(expr),
            Kind::AEXPR_OP_ANY | Kind::AEXPR_OP_ALL => self.quantified(expr),
            Kind::AEXPR_OP => self.plain_operator(expr),
            kind => {
                let what = format!("operator {kind} {}", operator_name(expr.name()));
                self.parts(&what, [expr.lexpr(), expr.rexpr()].into_iter())
            }
        }
    }

    fn plain_operator(&mut self, expr: &nodes::A_Expr) -> Result<Expr> {
        let name = operator_name(expr.name());
        let left = match self.chain(expr.lexpr())? {
            Some(chain) => Some(chain),
            None => self.maybe_expr(expr.lexpr())?,
        };
        let right = self.expr(expr.rexpr())?;
        Ok(Expr::Op(Box::new(Op { name, left, right })))
    }

    /// A long chain of operators, `a || b || c ...`: one flat expression in place of a deep one, known
    /// by its parts only.
    fn chain(&mut self, node: Node<'_>) -> Result<Option<Expr>> {
        let mut what = String::from("chain");
        let mut right = Vec::new();
        let mut next = node;
        while let Node::A_Expr(expr) = next
            && expr.kind == Kind::AEXPR_OP
            && !matches!(expr.lexpr(), Node::None)
        {
            what.extend([" ", &*operator_name(expr.name())]);
            right.push(expr.rexpr());
            next = expr.lexpr();
            if right.len() > CHAIN_MAX {
                return Err(too_deep());
            }
        }
        if right.len() < CHAIN_MIN {
            return Ok(None);
        }
        right.push(next);
        let args = self.exprs(right.into_iter().rev())?;
        Ok(Some(Expr::Other(Box::new(Other { what: what.into(), args }))))
    }

    fn in_list(&mut self, expr: &nodes::A_Expr) -> Result<Expr> {
        let negated = &*operator_name(expr.name()) != "=";
        let arg = self.expr(expr.lexpr())?;
        let list = match expr.rexpr() {
            Node::NodeList(list) => self.exprs(list.iter())?,
            other => vec![self.expr(other)?],
        };
        Ok(Expr::In(Box::new(In { arg, list, negated })))
    }

    fn quantified(&mut self, expr: &nodes::A_Expr) -> Result<Expr> {
        let arg = self.expr(expr.lexpr())?;
        let array = self.expr(expr.rexpr())?;
        let operator = operator_name(expr.name());
        Ok(Expr::Quantified(Box::new(Quantified { arg, operator, array, all: expr.kind == Kind::AEXPR_OP_ALL })))
    }

    fn boolean(&mut self, expr: &nodes::BoolExpr) -> Result<Expr> {
        let mut args = self.exprs(expr.args().iter())?;
        Ok(match expr.boolop {
            BoolExprType::AND_EXPR => Expr::And(args),
            BoolExprType::OR_EXPR => Expr::Or(args),
            _ => Expr::Not(Box::new(args.pop().unwrap_or(Expr::Opaque))),
        })
    }

    fn cast(&mut self, cast: &nodes::TypeCast) -> Result<Expr> {
        let arg = self.expr(cast.arg())?;
        let target = cast.type_name().map(type_name).unwrap_or_default();
        Ok(Expr::Cast(Box::new(Cast { arg, target })))
    }

    pub(super) fn call(&mut self, call: &nodes::FuncCall) -> Result<Expr> {
        let mut names = strings(call.funcname().iter());
        let name = names.pop().unwrap_or_default();
        let schema = names.pop().filter(|schema| &**schema != "pg_catalog");
        let args = self.exprs(call.args().iter())?;
        let order = self.sort_items(call.agg_order().iter())?;
        let filter = self.maybe_expr(call.agg_filter())?;
        let over = call.over().map(|window| self.window(window)).transpose()?;
        Ok(Expr::Func(Box::new(Func {
            name,
            schema,
            args,
            star: call.agg_star,
            distinct: call.agg_distinct,
            variadic: call.func_variadic,
            order,
            filter,
            over,
            within_group: call.agg_within_group,
            at: At(u32::try_from(call.location).unwrap_or(0)),
        })))
    }

    pub(super) fn window(&mut self, window: &nodes::WindowDef) -> Result<Window> {
        Ok(Window {
            name: window.name().map(Box::from),
            base: window.refname().map(Box::from),
            partition: self.exprs(window.partition_clause().iter())?,
            order: self.sort_items(window.order_clause().iter())?,
            bounds: self.exprs([window.start_offset(), window.end_offset()].into_iter().filter(is_some))?,
        })
    }

    pub(super) fn sort_items<'a>(&mut self, items: impl Iterator<Item = &'a nodes::SortBy>) -> Result<Vec<SortItem>> {
        items.map(|item| self.sort_item(item)).collect()
    }

    fn sort_item(&mut self, item: &nodes::SortBy) -> Result<SortItem> {
        let mut operator = item.use_op().iter();
        // What can be ordered at all has these operators, which ASC and DESC mean.
        let (descending, using) = match (operator.next(), operator.next()) {
            (Some(Node::String(name)), None) if name.sval() == Some("<") => (false, false),
            (Some(Node::String(name)), None) if name.sval() == Some(">") => (true, false),
            _ => (item.sortby_dir == 2, item.sortby_dir == 3),
        };
        Ok(SortItem {
            expr: self.expr(item.node())?,
            descending,
            nulls_first: [None, Some(true), Some(false)].get(item.sortby_nulls as usize).copied().flatten(),
            using,
        })
    }

    fn sublink(&mut self, link: &nodes::SubLink) -> Result<Expr> {
        let kind = match link.sub_link_type {
            SubLinkType::EXISTS_SUBLINK => SublinkKind::Exists,
            SubLinkType::ANY_SUBLINK => SublinkKind::Any,
            SubLinkType::ALL_SUBLINK => SublinkKind::All,
            SubLinkType::EXPR_SUBLINK => SublinkKind::Scalar,
            SubLinkType::ARRAY_SUBLINK => SublinkKind::Array,
            _ => return Ok(Expr::Opaque),
        };
        let test = self.maybe_expr(link.testexpr())?;
        let operator = (!link.oper_name().is_empty()).then(|| operator_name(link.oper_name()));
        let Node::SelectStmt(select) = link.subselect() else { return Ok(Expr::Opaque) };
        let query = self.query(select)?;
        Ok(Expr::Sublink(Box::new(Sublink { kind, test, operator, query })))
    }
}

fn is_some(node: &Node<'_>) -> bool {
    !matches!(node, Node::None)
}

fn target_value(node: Node<'_>) -> Node<'_> {
    match node {
        Node::ResTarget(target) => target.val(),
        _ => node,
    }
}

fn column_ref(column: &nodes::ColumnRef) -> Expr {
    let star = column.fields().iter().any(|field| matches!(field, Node::A_Star(_)));
    let names = strings(column.fields().iter()).into();
    if star { Expr::Star(names) } else { Expr::Column(names) }
}

fn value_function(function: &nodes::SQLValueFunction) -> Expr {
    if function.op <= SQLValueFunctionOp::SVFOP_LOCALTIMESTAMP_N {
        Expr::Clock
    } else {
        Expr::Other(Box::new(Other { what: format!("value {}", function.op).into(), args: Vec::new() }))
    }
}

/// `=`, or `schema.=` for an operator of another schema than `pg_catalog`.
fn operator_name(names: &pg_raw_parse::list::NodeList) -> Box<str> {
    let mut parts = strings(names.iter());
    if parts.len() > 1 && &*parts[0] == "pg_catalog" {
        parts.remove(0);
    }
    if parts.len() == 1 { parts.remove(0) } else { parts.join(".").into() }
}

/// Whether `written` is `'value'` with quotes doubled.
fn is_quoted(written: &str, value: &str) -> bool {
    let Some(inner) = written.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) else { return false };
    if inner.contains('\'') { inner.replace("''", "'") == value } else { inner == value }
}

pub(super) fn type_name(name: &nodes::TypeName) -> TypeName {
    let names: Vec<&str> = name.names().iter().filter_map(|part| part.sval()).collect();
    let joined = match names.as_slice() {
        ["pg_catalog", name] | [name] => (*name).into(),
        _ => names.join(".").into(),
    };
    let modifier = name.typmods().first().and_then(|modifier| match modifier {
        Node::A_Const(constant) => constant.val().and_then(|value| value.numeric_value()),
        _ => None,
    });
    TypeName {
        name: joined,
        array: !name.array_bounds().is_empty(),
        modified: !name.typmods().is_empty() || name.setof || name.pct_type,
        modifier,
    }
}
