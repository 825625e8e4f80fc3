# The network in Flux. Its layers share their arrays with `training.arrays`, which Flux updates in
# place, so nothing is copied between the names of the harness and the layers.

include(joinpath(@__DIR__, "..", "julia", "protocol.jl"))

module Worker

using ..Protocol: Unavailable, require

const PROBLEM = try
    @eval using Flux
    nothing
catch exception
    sprint(showerror, exception)
end

"The version in the Project.toml of a package (`pkgversion` of Julia 1.9)."
function version(package)
    text = read(joinpath(dirname(dirname(pathof(package))), "Project.toml"), String)
    return VersionNumber(match(r"^version *= *\"(.*)\""m, text)[1])
end

function greeting()
    PROBLEM === nothing || throw(Unavailable(
        "Flux cannot be loaded in Julia $VERSION: run `julia --project -e " *
        "'import Pkg; Pkg.instantiate()'` in $(@__DIR__). Julia says: $PROBLEM"))
    return ("framework" => "Flux", "version:flux" => version(Flux),
            "version:zygote" => version(Flux.Zygote), "version:julia" => VERSION,
            "source" => @__FILE__)
end

function choose(request)
    fields = Dict(request)
    fields["cell"] == "gru" && throw(Unavailable(
        "the gru of Flux has one bias vector for each gate; the network has a second one, `b_hn`."))
    if fields["gradient"] == "stateful-broadcast" && version(Flux) >= v"0.15"
        throw(Unavailable("from Flux 0.15 on no network keeps a state, so none can be called as " *
                          "`m.(xs)`; `gradient` = stateful-broadcast needs Flux 0.14 or older."))
    end
    require(request; cell = ["rnn", "lstm"], activation = ["tanh", "relu"], layers = (:),
            gradient = ["exact", "stateful-broadcast"])
    return fields
end

"A training: the network, its parameters by name, and Flux's optimiser."
struct Training{N,O}
    network::N
    arrays::Dict{String,Array}
    optimiser::O
    broadcast::Bool
end

function start(model, given)
    arrays = Dict{String,Array}(name => Array(value) for (name, value) in given)
    network = build(model, arrays)
    adam = isdefined(Flux, :Adam) ? Flux.Adam : Flux.ADAM
    rate = parse(Float64, model["learning_rate"])
    rule = model["optimiser"] == "adam" ? adam(rate) : Flux.Descent(rate)
    return Training(network, arrays, optimiser(rule, network),
                    model["gradient"] == "stateful-broadcast")
end

params(training) = training.arrays

"The recurrent layers, given how one is made from its cell and its initial state."
function recurrent(layer, model, arrays)
    return map(1:parse(Int, model["layers"])) do number
        own(name) = arrays[number == 1 ? name : "layer$number.$name"]
        weights = own.(("W_xh", "W_hh", "b_h"))
        model["cell"] == "lstm" && return layer(Flux.LSTMCell, weights, own.(("h0", "c0")))
        activation = model["activation"] == "relu" ? Flux.relu : tanh
        return layer(Flux.RNNCell, (activation, weights...), own("h0"))
    end
end

head(arrays) = (Flux.Dense(arrays["W_1"], arrays["b_1"]), Flux.Dense(arrays["W_2"], arrays["b_2"]))

PROBLEM === nothing && include(version(Flux) < v"0.15" ? "up_to_0_14.jl" : "from_0_15.jl")

end

Protocol.serve(Worker)
